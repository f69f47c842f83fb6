"""The pages of the documentation site in a real browser, at the width of a desktop and of a phone."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from collections.abc import Iterator

import pytest

from tests.helpers.browser import Open, axe, chromium, expect
from tests.helpers.site import build

pytestmark = pytest.mark.skipif(chromium() is None, reason="no browser is installed: apt-get install chromium")
# The start page, and pages of each kind.
PAGES = [
    "",
    "tutorial/first-model/",
    "how-to/own-model/",
    "reference/tasks/",
    "reference/python/modelfile/",
    "explanation/architecture/",
]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
HIDDEN = """[...document.querySelectorAll("pre > code")]
    .filter(code => code.scrollWidth > code.clientWidth + 1).map(code => code.innerText)"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    site = build(tmp_path_factory.mktemp("site"))
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light")])
def test_axe_finds_nothing(opened: Open, address: str, page: str, viewport: dict[str, int], scheme: str) -> None:
    with opened(address + page, viewport=viewport, color_scheme=scheme) as tab:
        assert axe(tab) == []


@pytest.mark.parametrize("page", PAGES)
def test_a_phone_shows_everything(opened: Open, address: str, page: str) -> None:
    with opened(address + page, viewport=PHONE) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.evaluate(HIDDEN) == []


@pytest.mark.parametrize(
    ("word", "page"), [("monitoring", "/monitor"), ("deploy", "how-to/deploy/"), ("CI", "how-to/ci/")]
)
def test_search_finds(opened: Open, address: str, word: str, page: str) -> None:
    with opened(address, viewport=DESKTOP) as tab:
        tab.get_by_role("button", name="Search").first.click()
        tab.get_by_label("Search", exact=True).and_(tab.locator("input[type=text]")).fill(word)
        tab.get_by_text(re.compile(r"\d results?$")).wait_for()
        tab.keyboard.press("Enter")
        expect(tab).to_have_url(re.compile(page))
