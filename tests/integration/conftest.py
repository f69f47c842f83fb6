"""A real browser for the tests of pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from tests.helpers.browser import Open


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from tests.helpers.browser import launched

    with launched() as found:
        yield found


@pytest.fixture
def opened(browser: Browser) -> Open:
    from tests.helpers.browser import opener

    return opener(browser)
