"""What axe-core finds in the pages of the service: nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.browser import Open, axe, chromium, service
from tests.integration.serving.test_page import one_image_is_answered
from tests.integration.serving.test_review_page import SENT, reviewed, sign_in

pytestmark = [
    pytest.mark.skipif(chromium() is None, reason="no browser is installed: apt-get install chromium"),
    pytest.mark.parametrize("scheme", ["light", "dark"]),
]
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def page_url() -> Iterator[str]:
    with service() as found:
        yield found


@pytest.fixture(scope="module")
def review_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("log")
    with reviewed(folder, SENT) as found:
        yield found


def test_the_page(opened: Open, page_url: str, scheme: str) -> None:
    with opened(page_url, color_scheme=scheme) as page:
        assert axe(page) == []
        one_image_is_answered(page)
        assert axe(page) == []


def test_the_page_on_a_phone(opened: Open, page_url: str, scheme: str) -> None:
    with opened(page_url, color_scheme=scheme, viewport=PHONE) as page:
        assert axe(page) == []


def test_the_review_page(opened: Open, review_url: str, scheme: str) -> None:
    with opened(review_url, color_scheme=scheme) as page:
        assert axe(page) == []
        sign_in(page)
        page.locator("#facts").get_by_text("image 0").wait_for()
        assert axe(page) == []
