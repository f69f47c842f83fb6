"""Tests the review page in a real browser with a running service.

`uv run python -m tests.integration.serving.test_review_page` takes the screenshot in the documentation.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest

from src.mlops import ROOT
from src.mlops.io.storage import Folder
from src.mlops.monitoring.erase import erase
from src.mlops.monitoring.labels import Label, Labels
from tests.helpers.browser import Open, chromium, expect, launched, service
from tests.helpers.recording import wait_until
from tests.integration.serving.test_page import COLOURS, PRIORITY_ROAD, ROAD_WORKS, STOP, encoded, luminance, sign, wall

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.skipif(chromium() is None, reason="no browser is installed: apt-get install chromium")
TOKEN = "the token of a test"
SENT = {"stop": encoded(sign(STOP)), "priority": encoded(sign(PRIORITY_ROAD, 11)), "wall": wall()["buffer"]}


@contextmanager
def reviewed(folder: Path, images: dict[str, bytes], share: float = 1) -> Iterator[str]:
    """Starts a service that has recorded images. Yields the address of its review page."""
    settings = {"MLOPS_LOG_URL": str(folder), "MLOPS_ADMIN_TOKEN": TOKEN, "MLOPS_LOG_IMAGES": str(share)}
    with service(**settings, MLOPS_LOG_FLUSH_SECONDS="0.1") as address:
        for name, content in images.items():
            sent = {"file": (f"{name}.png", content)}
            assert httpx.post(f"{address}/cv_model/", files=sent, headers={"X-Request-ID": name}).status_code == 200
        headers = {"Authorization": f"Bearer {TOKEN}"}
        wait_until(
            lambda: httpx.get(f"{address}/review/queue", headers=headers).json()["waiting"] == len(images), seconds=30
        )
        yield f"{address}/review"


@pytest.fixture
def page_url(tmp_path: Path) -> Iterator[str]:
    with reviewed(tmp_path, SENT) as found:
        yield found


def sign_in(page: Page) -> None:
    page.get_by_label("Admin token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_label("Admin token")).to_be_hidden()


def shows(page: Page, request_id: str) -> None:
    expect(page.locator("#facts")).to_contain_text(f"{request_id}, image 0")


def status(page: Page, words: str | re.Pattern[str]) -> None:
    expect(page.get_by_role("status")).to_have_text(words)


def shown(page: Page) -> str:
    """Returns the request ID of the shown image."""
    expect(page.locator("#facts")).to_contain_text(", image 0")
    found = re.search(r"Request(\w+), image 0", page.locator("#facts").inner_text().replace("\n", ""))
    assert found
    return found[1]


def histories(folder: Path) -> dict[str, list[Label]]:
    return {history[0].request_id: history for history in Labels(Folder(folder)).all().values()}


def test_the_keyboard_alone(opened: Open, tmp_path: Path, page_url: str) -> None:
    with opened(page_url) as page:
        expect(page.get_by_label("Admin token")).to_be_focused()
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        search = page.get_by_role("combobox")
        expect(search).to_be_focused()
        shows(page, "wall")  # unknown images come first
        image = page.get_by_role("img", name="The image to label")
        expect(image).to_be_visible()
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 120
        expect(page.get_by_text("0 labelled, 3 to go")).to_be_visible()
        page.keyboard.press("-")
        status(page, "Stored: None of the classes.")
        expect(page.get_by_text("1 labelled, 2 to go")).to_be_visible()
        second = shown(page)
        page.keyboard.press("Enter")  # confirms the prediction
        status(page, re.compile("^Stored: (Stop|Priority road)"))
        third = shown(page)
        page.keyboard.type("206")  # the number of the sign
        expect(page.get_by_role("option")).to_have_count(1)
        page.keyboard.press("Enter")
        status(page, "Stored: Stop.")
        expect(page.get_by_text("3 labelled, 0 to go")).to_be_visible()
        expect(page.get_by_role("combobox")).to_be_hidden()
        expect(page.get_by_role("button", name="Undo")).to_be_focused()
        page.keyboard.press("Control+z")
        status(page, "The label was withdrawn.")
        shows(page, third)
        page.keyboard.type("road works")
        page.keyboard.press("Enter")
        status(page, "Stored: Road works.")
    labels = histories(tmp_path)
    assert [label.verdict for label in labels["wall"]] == ["none"]
    assert [label.class_id for label in labels[second]] == [{"stop": STOP, "priority": PRIORITY_ROAD}[second]]
    assert [label.class_id for label in labels[third]] == [STOP, None, ROAD_WORKS]
    assert {label.source for history in labels.values() for label in history} == {"review"}


def test_the_mouse_arrows_and_names_without_a_match(opened: Open, tmp_path: Path, page_url: str) -> None:
    with opened(page_url) as page:
        sign_in(page)
        page.keyboard.type("no such sign")
        expect(page.get_by_text("No class has this name or number.")).to_be_visible()
        page.keyboard.press("Enter")  # nothing to choose
        page.keyboard.press("Escape")
        expect(page.get_by_role("option")).to_have_count(43)
        page.keyboard.press("ArrowDown")
        marked = page.get_by_role("option", selected=True)
        expect(page.get_by_role("option").nth(1)).to_have_attribute("aria-selected", "true")
        page.keyboard.press("ArrowUp")
        expect(page.get_by_role("option").nth(0)).to_have_attribute("aria-selected", "true")
        expect(page.get_by_role("combobox")).to_have_attribute(
            "aria-activedescendant", marked.get_attribute("id") or "none"
        )
        page.get_by_role("button", name="Cannot tell").click()
        status(page, "Stored: Cannot tell.")
        page.get_by_role("combobox").fill("stop")
        page.get_by_role("option", name="Stop").first.click()
        status(page, "Stored: Stop.")
    assert sorted(label.verdict for [label] in histories(tmp_path).values()) == ["class", "unclear"]


def test_a_double_click_labels_one_image(opened: Open, tmp_path: Path, page_url: str) -> None:
    with opened(page_url) as page:
        sign_in(page)
        shows(page, "wall")
        page.evaluate("document.getElementById('none').click(); document.getElementById('none').click()")
        status(page, "Stored: None of the classes.")
        expect(page.get_by_text("1 labelled, 2 to go")).to_be_visible()
    assert [*histories(tmp_path)] == ["wall"]


def test_two_reviewers_at_once(opened: Open, tmp_path: Path, page_url: str) -> None:
    with opened(page_url) as one, opened(f"{page_url}/", expected_errors="409") as other:
        for page in (one, other):
            sign_in(page)
            shows(page, "wall")
        one.keyboard.press("-")
        status(one, "Stored: None of the classes.")
        other.keyboard.press("Enter")
        status(other, re.compile("^Somebody else has labelled this image meanwhile. It now says: none of the classes"))
        expect(other.get_by_text("1 labelled, 2 to go")).to_be_visible()
    assert [label.verdict for label in histories(tmp_path)["wall"]] == ["none"]


def test_images_that_were_erased_meanwhile(opened: Open, tmp_path: Path) -> None:
    with reviewed(tmp_path, SENT) as url:
        pass
    with service(MLOPS_LOG_URL=str(tmp_path), MLOPS_ADMIN_TOKEN=TOKEN) as address:
        url = f"{address}/review"
        with opened(url, expected_errors="404") as page:
            sign_in(page)
            shows(page, "wall")
            assert erase(str(tmp_path), "stop").images == 1
            page.keyboard.press("-")
            status(page, "Stored: None of the classes.")
            for _ in range(2):
                is_erased = shown(page) == "stop"
                if is_erased:
                    expect(page.locator("#image-note")).to_have_text(re.compile("deleted meanwhile"))
                page.keyboard.press("Enter")
                status(page, re.compile("is not recorded" if is_erased else "^Stored: Priority road"))
            expect(page.get_by_role("combobox")).to_be_hidden()
    assert {*histories(tmp_path)} == {"wall", "priority"}


def test_a_wrong_token(opened: Open, page_url: str) -> None:
    with opened(page_url, expected_errors="401") as page:
        page.get_by_label("Admin token").fill("wrong")
        page.keyboard.press("Enter")
        status(page, re.compile("^The admin token is missing or wrong"))
        expect(page.get_by_role("combobox")).to_be_hidden()
        sign_in(page)
        page.reload()  # the token is stored for this tab
        shows(page, "wall")


def test_a_service_that_stops_answering(opened: Open, page_url: str) -> None:
    with opened(page_url, expected_errors="ERR_FAILED") as page:
        sign_in(page)
        shows(page, "wall")
        page.route("**/review/labels", lambda route: route.abort())
        page.keyboard.press("-")
        status(page, re.compile("^The service does not respond. Nothing was stored"))
        shows(page, "wall")
        page.unroute("**/review/labels")
        page.keyboard.press("-")
        status(page, "Stored: None of the classes.")


def test_without_images_there_are_only_records(opened: Open, tmp_path: Path) -> None:
    with reviewed(tmp_path, {"stop": SENT["stop"]}, share=0) as url, opened(url) as page:
        sign_in(page)
        shows(page, "stop")
        expect(page.get_by_text("No image is stored, only its record.")).to_be_visible()
        expect(page.get_by_role("img", name="The image to label")).to_be_hidden()


def test_without_a_log(opened: Open) -> None:
    with service(MLOPS_ADMIN_TOKEN=TOKEN) as address, opened(f"{address}/review", expected_errors="404") as page:
        page.get_by_label("Admin token").fill(TOKEN)
        page.keyboard.press("Enter")
        status(page, re.compile("MLOPS_LOG_URL switches the log on"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_and_phone(opened: Open, page_url: str, scheme: Any) -> None:
    with opened(page_url, color_scheme=scheme, reduced_motion="reduce", viewport={"width": 390, "height": 844}) as page:
        sign_in(page)
        shows(page, "wall")
        expect(page.locator("#task")).not_to_have_attribute("aria-busy", "true")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.keyboard.press("-")
        expect(page.get_by_role("button", name="Undo")).to_be_visible()
        for text, ink, below in page.evaluate(COLOURS):
            darker, lighter = sorted([luminance(ink), luminance(below)])
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, text  # WCAG 2, AA


def take_images(folder: Path) -> None:
    """Takes the screenshot of the page for the documentation."""
    with tempfile.TemporaryDirectory() as log, reviewed(Path(log), SENT) as url, launched() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 760}, color_scheme="light", reduced_motion="reduce")
        page.goto(url)
        sign_in(page)
        shows(page, "wall")
        page.keyboard.press("-")
        status(page, "Stored: None of the classes.")
        expect(page.get_by_role("img", name="The image to label")).to_be_visible()
        page.screenshot(path=folder / "review.png", full_page=True)


if __name__ == "__main__":
    take_images(ROOT / "docs" / "images")
