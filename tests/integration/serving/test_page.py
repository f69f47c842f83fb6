"""Tests the web page at `/` in a real browser with a running service.

`uv run python -m tests.integration.serving.test_page` takes the screenshots in the documentation.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image

from src.mlops import ROOT
from src.mlops.data.classes import ClassInfo, ClassList
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.synthetic.camera import photograph, scenery
from src.mlops.data.synthetic.drawing import draw_sign
from src.mlops.io.files import to_json
from src.mlops.io.service_process import running
from src.mlops.modelfile.locate import BUNDLED
from src.mlops.project import Project
from src.mlops.serving.settings import Settings
from tests.helpers.browser import Open, chromium, expect, launched, service
from tests.helpers.graphs import with_classes
from tests.helpers.images import encode

if TYPE_CHECKING:
    from playwright.sync_api import FilePayload, Page, Route


STOP, PRIORITY_ROAD, ROAD_WORKS = 14, 12, 25
KEY = "the key of a test"
# Records every name that the page shows.
NOTE_NAMES = """() => {
  const name = document.getElementById("name");
  window.names = [];
  new MutationObserver(() => names.push(name.textContent)).observe(name, { childList: true });
}"""
# Drops or pastes images.
GIVE = """([kind, files]) => {
  const given = new DataTransfer();
  for (const [name, type, bytes] of files) given.items.add(new File([new Uint8Array(bytes)], name, { type }));
  const options = { bubbles: true, cancelable: true };
  document.body.dispatchEvent(kind === "drop" ? new DragEvent(kind, { ...options, dataTransfer: given })
    : new ClipboardEvent(kind, { ...options, clipboardData: given }));
}"""

# Serves with settings and names from the command line.
RENAMED = """
import json, sys, uvicorn
from src.mlops.project import Project
from src.mlops.serving.app import create_app
from src.mlops.serving.settings import Settings
given = json.loads(sys.argv[1])
app = create_app(Settings(**given["settings"]), Project(**given["project"]))
uvicorn.run(app, port=int(sys.argv[2]))
"""


pytestmark = pytest.mark.skipif(chromium() is None, reason="no browser is installed: apt-get install chromium")


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


@cache
def sign(class_id: int, seed: int = 1, side: int = 120) -> Image.Image:
    return photograph(draw_sign(SIGNS[class_id], size=512), np.random.default_rng(seed), side)


def file(name: str, content: Image.Image | bytes, kind: str = "image/png") -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": encoded(content) if isinstance(content, Image.Image) else content}


def wall() -> FilePayload:
    return file("wall.png", scenery(np.random.default_rng(3), 120))


@contextmanager
def renamed_service(folder: Path, project: Project, names: list[str], **settings: Any) -> Iterator[str]:
    """Starts the service for another project: with the bundled model, but other names. Yields its address."""
    classes = ClassList(ClassInfo(place, name) for place, name in enumerate(names))
    model = with_classes(ROOT / BUNDLED, folder / "renamed.onnx", classes)
    given = to_json({"settings": {"model": str(model), **settings}, "project": project.model_dump()})
    with running([sys.executable, "-c", RENAMED, given, "{port}"], "/health/ready", {"MLOPS_API_KEYS": ""}) as client:
        yield str(client.base_url)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with service() as found:
        yield found


def choose(page: Page, *files: FilePayload) -> None:
    page.get_by_label("Choose images").set_input_files(list(files))


def give(page: Page, kind: str, *files: FilePayload) -> None:
    page.evaluate(GIVE, [kind, [[entry["name"], entry["mimeType"], list(entry["buffer"])] for entry in files]])


def headline(page: Page, words: str | re.Pattern[str]) -> None:
    expect(page.get_by_role("heading", level=2)).to_have_text(words)


def one_image_is_answered(page: Page) -> None:
    choose(page, file("sign.png", sign(STOP)))
    headline(page, "Stop")
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^Stop, sign 206, (> )?9\d\.\d %\.$"))
    facts = page.get_by_role("region", name="Stop").locator("dl")
    expect(facts).to_contain_text("206")
    expect(facts).to_contain_text(re.compile(r"Answered in\d+ ms"))
    ranked = page.get_by_role("list", name="most probable").get_by_role("listitem")
    expect(ranked).to_have_count(5)
    expect(ranked.first).to_contain_text(re.compile(r"Stop (> )?9\d\.\d %"))
    for name in ("The image sign.png", "Saliency map"):
        image = page.get_by_role("img", name=name)
        expect(image).to_be_visible()
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") >= 120
    expect(page.get_by_text("43 classes")).to_be_hidden()


def test_one_image(opened: Open, address: str) -> None:
    with opened(address) as page:
        one_image_is_answered(page)
        bars = page.locator("#ranking .track div").evaluate_all("bars => bars.map(bar => bar.offsetWidth)")
        assert bars[0] > 100 * bars[1] / 2
        choose(page, file("sign.png", sign(PRIORITY_ROAD)))  # the page accepts another image
        headline(page, "Priority road")


def test_below_a_path(opened: Open, address: str) -> None:
    """The page also works behind a proxy that adds a path."""

    def forward(route: Route) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace("/some/where", "")))

    with opened(f"{address}/some/where/", through=forward) as page:
        one_image_is_answered(page)
        page.get_by_role("link", name="API").click()
        expect(page.get_by_text("/cv_model/explain")).to_be_visible()
        expect(page.locator(".servers")).to_have_text(f"{address}/some/where")


def test_keyboard_alone(opened: Open, address: str) -> None:
    with opened(address) as page:
        page.keyboard.press("Tab")
        chooser = page.get_by_role("button", name="Choose images")
        expect(chooser).to_be_focused()
        assert page.locator("label", has=chooser).evaluate("label => getComputedStyle(label).outlineStyle") == "solid"
        with page.expect_file_chooser() as opening:
            page.keyboard.press("Enter")
        assert opening.value.is_multiple()
        opening.value.set_files([file("a.png", sign(STOP)), file("b.png", sign(PRIORITY_ROAD))])
        headline_of_table = page.get_by_role("heading", name=re.compile(r"^2 images in \d+ ms$"))
        expect(headline_of_table).to_be_visible()
        expect(chooser).to_be_focused()  # the result does not move the focus
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Download as CSV")).to_be_focused()
        with page.expect_download():
            page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="API")).to_be_focused()


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_pasted_and_dropped(opened: Open, address: str, kind: str) -> None:
    with opened(address) as page:
        give(page, kind)
        expect(page.get_by_role("status")).to_have_text(re.compile("no image"))
        give(page, kind, file("image.png", sign(ROAD_WORKS)))
        headline(page, "Road works")
        give(page, kind, file("image.png", sign(STOP)), file("other.png", sign(ROAD_WORKS)))
        headline(page, re.compile("^2 images"))


def test_new_images_replace_the_previous_ones(opened: Open, address: str) -> None:
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        held.append(route) if not held else route.continue_()

    with opened(address) as page:
        page.evaluate(NOTE_NAMES)
        page.route("**/cv_model/", hold_the_first)
        give(page, "drop", file("first.png", sign(STOP)))
        expect(page.get_by_role("status")).to_have_text(re.compile("…$"))
        give(page, "drop", file("second.png", sign(PRIORITY_ROAD)))
        headline(page, "Priority road")
        expect(page.get_by_role("img", name="Saliency map")).to_be_visible()
        held[0].continue_()
        choose(page, *[file("a.png", sign(STOP))] * 2)  # the response to the first image would arrive before this one
        headline(page, re.compile("^2 images"))
        assert page.evaluate("names") == ["Priority road"]


def test_unknown(opened: Open, address: str) -> None:
    with opened(address) as page:
        choose(page, wall())
        headline(page, "Not a known sign")
        expect(page.get_by_text("none of the 43 classes that")).to_be_visible()
        expect(page.get_by_role("status")).to_have_text("Not a known sign.")
        expect(page.get_by_role("list", name="Most similar classes").get_by_role("listitem")).to_have_count(5)
        choose(page, file("sign.png", sign(STOP)))
        headline(page, "Stop")
        expect(page.get_by_text("43 classes")).to_be_hidden()


def test_several_images(opened: Open, address: str) -> None:
    with opened(address) as page:
        choose(
            page,
            file("stop.png", sign(STOP)),
            file("=cmd|' /C calc'!A0.png", sign(ROAD_WORKS)),
            wall(),
            file('a "quoted", ünusual.txt', b"no image", "text/plain"),
        )
        expect(page.get_by_role("status")).to_have_text(re.compile(r"^4 images .*\b1 of them"))
        rows = page.get_by_role("table").get_by_role("row")
        expect(rows).to_have_count(5)
        expect(rows.nth(1)).to_have_text(re.compile(r"stop\.pngStopsign 206(> )?9\d\.\d %"))
        expect(rows.nth(3)).to_contain_text("Not a known sign")
        expect(rows.nth(4)).to_contain_text("WEBP")
        expect(page.get_by_role("columnheader")).to_have_text(["Image", "File", "Sign", "Probability"])
        expect(page.get_by_role("rowheader").first).to_have_text("stop.png")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download as CSV").click()
        assert download.value.suggested_filename == "predictions.csv"
        content = Path(download.value.path()).read_text("utf-8-sig")
    found = list(csv.DictReader(io.StringIO(content, newline="")))
    assert [row["file"] for row in found] == [
        "stop.png",
        "'=cmd|' /C calc'!A0.png",  # not a formula
        "wall.png",
        'a "quoted", ünusual.txt',
    ]
    assert [row["number"] for row in found[:2]] == ["206", "123"]
    assert [row["is_unknown"] for row in found] == ["false", "false", "true", ""]
    assert 0.9 < float(found[0]["probability"]) <= 1
    assert "WEBP" in found[3]["error"]


def test_more_images_than_the_limit_of_a_batch(opened: Open, address: str) -> None:
    image = encoded(sign(STOP, side=40))
    with opened(address) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        choose(page, *[file(f"{number}.png", image) for number in range(70)])
        expect(page.get_by_role("status")).to_have_text(re.compile(r"^70 images \w+\.$"))
        expect(page.get_by_role("row")).to_have_count(71)
        assert page.get_by_role("rowheader").all_inner_texts() == [f"{number}.png" for number in range(70)]
        assert asked.count(f"{address}/cv_model/batch") == 5


def test_a_service_with_small_limits(opened: Open) -> None:
    limits = {"MLOPS_MAX_BATCH_FILES": "3", "MLOPS_MAX_UPLOAD_BYTES": "40000"}
    with service(**limits) as address, opened(address, expected_errors="413") as page:
        files = [file(f"{number}.png", sign(STOP, side=40)) for number in range(5)]
        large = file("large.png", sign(STOP, side=400))
        choose(page, *files, large)
        expect(page.get_by_role("status")).to_have_text(re.compile(r"^6 images .*\b1 of them"))
        expect(page.get_by_role("row").last).to_contain_text("40,000 bytes")
        choose(page, large)
        expect(page.get_by_role("status")).to_contain_text("40,000 bytes")


def test_a_large_jpeg_image(opened: Open, address: str, tmp_path: Path) -> None:
    """The image exceeds the service's limit. The page scales it down before it sends it."""
    noise = np.random.default_rng(0).integers(0, 80, (1500, 2000, 3), np.uint8)
    image = Image.fromarray(noise + np.asarray(sign(STOP).resize((2000, 1500))) // 2)
    path = tmp_path / "photo.jpg"
    image.save(path, quality=100, subsampling=0)
    assert path.stat().st_size > Settings().max_upload_bytes
    with opened(address) as page:
        page.get_by_label("Choose images").set_input_files(path)
        headline(page, "Stop")


@pytest.mark.parametrize("kind", ["HEIF", "TIFF", "PPM"])
def test_formats_that_browsers_cannot_show(opened: Open, address: str, kind: str) -> None:
    with opened(address) as page:
        choose(page, file(f"sign.{kind.lower()}", encode(sign(STOP), kind), ""))
        headline(page, "Stop")
        expect(page.get_by_text("This browser cannot")).to_be_visible()
        expect(page.get_by_role("img", name="The image sign")).to_be_hidden()
        expect(page.get_by_role("img", name="Saliency map")).to_be_visible()
        choose(page, file("sign.png", sign(STOP)))
        expect(page.get_by_role("img", name="The image sign")).to_be_visible()
        expect(page.get_by_text("This browser cannot")).to_be_hidden()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello", "WEBP"),
        (b"", "0 bytes"),
        (encoded(sign(STOP))[:900], "corrupted"),
    ],
    ids=["text", "empty", "truncated"],
)
def test_files_that_are_not_images(opened: Open, address: str, content: bytes, words: str) -> None:
    with opened(address, expected_errors="415|422") as page:
        choose(page, file("good.png", sign(STOP)))
        headline(page, "Stop")
        choose(page, file("bad.png", content))
        expect(page.get_by_role("status")).to_contain_text(words)
        expect(page.get_by_role("heading", level=2)).to_have_count(0)  # the previous result is hidden
        choose(page, file("good.png", sign(STOP)))
        headline(page, "Stop")


def test_service_down(opened: Open, address: str) -> None:
    with opened(address, expected_errors="ERR_INTERNET_DISCONNECTED") as page:
        page.context.set_offline(True)
        for files in ([file("a.png", sign(STOP))], [file("a.png", sign(STOP)), file("b.png", sign(STOP))]):
            choose(page, *files)
            expect(page.get_by_role("status")).to_have_class("error")
            expect(page.get_by_role("status")).to_contain_text("service")
        page.context.set_offline(False)
        choose(page, file("a.png", sign(STOP)))
        headline(page, "Stop")


def test_a_proxy_that_fails(opened: Open, address: str) -> None:
    with opened(address, expected_errors="502") as page:
        page.route("**/cv_model/", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
        choose(page, file("a.png", sign(STOP)))
        expect(page.get_by_role("status")).to_contain_text("502")


def test_a_missing_saliency_map(opened: Open, address: str) -> None:
    problem = {"status": 501, "detail": "this network has no map"}
    with opened(address, expected_errors="501") as page:
        page.route("**/cv_model/explain", lambda route: route.fulfill(status=501, json=problem))
        choose(page, file("a.png", sign(STOP)))
        headline(page, "Stop")
        expect(page.get_by_text("this network has no map")).to_be_visible()


def test_the_number_of_classes_is_asked_once_for_each_model(opened: Open, address: str) -> None:
    with opened(address) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for _ in range(2):
            choose(page, wall())
            expect(page.get_by_text("none of the 43 classes that")).to_be_visible()
            choose(page, file("sign.png", sign(STOP)))
            headline(page, "Stop")
        assert asked.count(f"{address}/model") == 1


def test_the_number_of_classes_is_left_out_if_the_service_does_not_say(opened: Open, address: str) -> None:
    with opened(address, expected_errors="429") as page:
        page.route("**/model", lambda route: route.fulfill(status=429, json={"detail": "too many"}))
        choose(page, wall())
        expect(page.get_by_text("looks like none of the classes that the model knows")).to_be_visible()


SCREWS = Project(
    title="Screws & <b>bolts</b>",
    registry="screws",
    page_title='Which "screw" is this?',
    image_title="screw or bolt",
    description="Classifies screws.",
)


def test_names_of_another_project(opened: Open, tmp_path: Path) -> None:
    names = [f"Hexagon screw, <i>steel</i>, number {place}" for place in range(len(SIGNS))]
    with renamed_service(tmp_path, SCREWS, names, api_keys=KEY) as address:
        with opened(address, expected_errors="401") as page:
            assert page.title() == 'Which "screw" is this?'
            expect(page.get_by_role("heading", level=1)).to_have_text('Which "screw" is this?')
            expect(page.get_by_role("banner")).to_contain_text("Screws & <b>bolts</b>: choose an image of one screw or")
            choose(page, file("a.png", sign(STOP)))
            page.get_by_label("API key").fill(KEY)
            page.keyboard.press("Enter")
            headline(page, names[STOP])
            expect(page.get_by_role("status")).to_have_text(re.compile(rf"^{names[STOP]}, (> )?9\d\.\d %\.$"))
            expect(page.get_by_role("term")).to_have_text(["Class", "Probability", "Answered in", "Model"])
            choose(page, wall())
            headline(page, "Not a known screw or bolt")
            expect(page.get_by_text(f"none of the {len(SIGNS)} classes that")).to_be_visible()
            choose(page, file("a.png", sign(STOP)), wall())
            expect(page.get_by_role("columnheader")).to_have_text(["Image", "File", "Screw or bolt", "Probability"])
            expect(page.get_by_role("row").nth(1)).to_have_text(re.compile(rf"a\.png{names[STOP]}(> )?9\d\.\d %$"))
            expect(page.get_by_role("row").nth(2)).to_contain_text("Not a known screw or bolt")
            with page.expect_download() as download:
                page.get_by_role("button", name="Download as CSV").click()
            [row, _] = csv.DictReader(io.StringIO(Path(download.value.path()).read_text("utf-8-sig"), newline=""))
            assert (row["name"], row["number"]) == (names[STOP], "")
            assert not re.search(r"\bsigns?\b|German", page.locator("body").inner_text())
        with opened(f"{address}/docs") as page:
            assert page.title() == "Screws & <b>bolts</b>: API"
            expect(page.get_by_role("heading", name="Screws & <b>bolts</b>")).to_be_visible()


@pytest.mark.parametrize(
    "name",
    ["Donaudampfschifffahrtsgesellschaft" * 5, "قف ممنوع الدخول (stop)", "止まれ🚦" * 12],
    ids=["long", "rtl", "cjk"],
)
def test_names_fit_on_the_page(opened: Open, tmp_path: Path, name: str) -> None:
    text = name[:90]
    other = Project(title=text, registry="a", page_title=text, image_title=text, description=text)
    names = [f"{name} {place}" for place in range(len(SIGNS))]
    widest = "document.documentElement.scrollWidth"
    with renamed_service(tmp_path, other, names) as address:
        for width in (390, 1000):
            with opened(address, viewport={"width": width, "height": 800}) as page:
                assert page.evaluate(widest) == width
                choose(page, file("a.png", sign(STOP)))
                headline(page, names[STOP])
                # Names start at the left, as all other texts of the page do, in whatever direction they are written.
                aligned = "all => all.map((one) => getComputedStyle(one).textAlign)"
                assert set(page.locator("#name, #ranking span[dir]").evaluate_all(aligned)) == {"left"}
                assert page.evaluate(widest) == width
                choose(page, wall())
                headline(page, f"Not a known {text}")
                assert page.evaluate(widest) == width
                choose(page, file("a.png", sign(STOP)), wall())
                headline(page, re.compile("^2 images"))
                assert page.evaluate(widest) == width
                assert page.get_by_role("rowheader").first.evaluate("cell => cell.offsetWidth") >= 40


def test_the_page_asks_for_the_key(opened: Open) -> None:
    with service(MLOPS_API_KEYS=f"another,{KEY}") as address, opened(address, expected_errors="401") as page:
        field = page.get_by_label("API key")
        expect(field).to_be_hidden()
        choose(page, file("a.png", sign(STOP)))
        expect(page.get_by_role("status")).to_contain_text("API key")
        expect(field).to_be_focused()
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_class("error")
        expect(page.get_by_role("status")).to_contain_text("API key")
        field.fill(KEY)
        page.get_by_role("button", name="Use this key").click()
        headline(page, "Stop")  # the page sends the same image again
        expect(page.get_by_role("img", name="Saliency map")).to_be_visible()
        expect(field).to_be_hidden()
        page.reload()
        choose(page, file("a.png", sign(STOP)), file("b.png", sign(STOP)))
        headline(page, re.compile("^2 images"))  # the key is still stored
        with opened(address, expected_errors="401") as other:  # another tab has no key
            give(other, "drop", file("a.png", sign(STOP)), file("b.png", sign(STOP)))
            expect(other.get_by_label("API key")).to_be_focused()
            assert httpx.get(address).status_code == 200


def test_a_deleted_file(opened: Open, address: str, tmp_path: Path) -> None:
    path = tmp_path / "gone.png"
    sign(STOP).save(path)

    def lose(route: Route) -> None:
        path.unlink()
        route.abort()  # the browser does this if it cannot read the file

    with opened(address, expected_errors="ERR_FAILED") as page:
        page.route("**/cv_model/", lose)
        page.get_by_label("Choose images").set_input_files(path)
        expect(page.get_by_role("status")).to_contain_text("gone.png")


def test_object_urls_are_released(opened: Open, address: str) -> None:
    with opened(address) as page:
        for class_id in (STOP, PRIORITY_ROAD, ROAD_WORKS):
            choose(page, file("a.png", sign(class_id)), file("b.png", sign(class_id)))
            headline(page, re.compile("^2 images"))
            choose(page, file("a.png", sign(class_id)))
            expect(page.get_by_role("img", name="Saliency map")).to_be_visible()
        assert page.evaluate("liveUrls.size") == 2  # the image and its saliency map


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


# Returns every visible text with its colour and its background colour.
COLOURS = """() => {
  const clear = "rgba(0, 0, 0, 0)", found = [];
  for (const part of document.querySelectorAll("body *")) {
    const words = [...part.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join("").trim();
    if (!words || !part.checkVisibility({ opacityProperty: true })) continue;
    let below = part;
    while (getComputedStyle(below).backgroundColor === clear && below.parentElement) below = below.parentElement;
    found.push([words, getComputedStyle(part).color, getComputedStyle(below).backgroundColor]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_enough_contrast(opened: Open, address: str, scheme: Any) -> None:
    with opened(address, color_scheme=scheme, reduced_motion="reduce", expected_errors="415") as page:
        paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (luminance(paper) > 0.5) == (scheme == "light")
        bad = file("bad.png", b"bad")
        for files, seen in [
            ([wall()], "43 classes"),
            ([file("a.png", sign(STOP))], "most probable"),
            ([wall(), bad], "similar:"),
            ([bad], "TIFF, WEBP"),
        ]:
            choose(page, *files)
            expect(page.get_by_text(seen).first).to_be_visible()
            expect(page.locator("body")).not_to_have_attribute("aria-busy", "true")
            texts = page.evaluate(COLOURS)
            assert len(texts) >= 6
            for text, ink, below in texts:
                darker, lighter = sorted([luminance(ink), luminance(below)])
                assert (lighter + 0.05) / (darker + 0.05) >= 4.5, text  # WCAG 2, AA


def test_phone(opened: Open, address: str) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    with opened(address, **phone) as page:
        camera = page.get_by_role("button", name="Take a photo")
        expect(page.locator("label", has=camera)).to_be_visible()
        expect(camera).to_have_attribute("capture", "environment")
        widest = "document.documentElement.scrollWidth"
        assert page.evaluate(widest) == 390
        with page.expect_file_chooser() as opening:
            page.locator("label", has=camera).tap()
        assert not opening.value.is_multiple()
        opening.value.set_files(file("photo.png", sign(STOP)))
        headline(page, "Stop")
        assert page.evaluate(widest) == 390
        choose(page, file("a-long-name-without-any-space" * 4 + ".png", sign(STOP)), wall())
        headline(page, re.compile("^2 images"))
        assert page.evaluate(widest) == 390
        expect(page.get_by_role("rowheader")).to_have_count(2)  # screen readers still see a table
        expect(page.get_by_role("columnheader")).to_have_count(4)


def test_the_camera_button_is_hidden_on_desktops(opened: Open, address: str) -> None:
    with opened(address) as page:
        expect(page.get_by_text("Drop images here")).to_be_visible()
        expect(page.get_by_text("Take a photo")).to_be_hidden()
        with page.expect_file_chooser():
            page.get_by_role("region", name="Images").click(position={"x": 9, "y": 9})  # anywhere in the area


def test_screen_readers(opened: Open, address: str) -> None:
    with opened(address) as page:
        choose(page, file("a.png", sign(STOP)))
        expect(page.get_by_role("img", name="Saliency map")).to_be_visible()
        expect(page.locator("body")).to_match_aria_snapshot("""
            - banner:
              - heading "Which sign is this?" [level=1]
            - main:
              - region "Images":
                - button "Choose images"
              - status: /Stop, sign 206/
              - region "Stop":
                - figure "The image":
                  - img "The image a.png"
                - figure /Saliency map/:
                  - img "Saliency map"
                - heading "Stop" [level=2]
                - term: Number
                - definition: "206"
                - heading "Most probable classes" [level=3]
                - list "Most probable classes":
                  - listitem: /Stop/
            - contentinfo:
              - link "API documentation"
        """)
        assert page.title() == "Which sign is this?"
        assert page.locator("html").get_attribute("lang") == "en"
        described = page.get_by_role("button", name="Choose images")
        expect(described).to_have_accessible_description("AVIF, BMP, GIF, HEIC, JPEG, PNG, PPM, TIFF or WebP")


def test_docs(opened: Open, address: str) -> None:
    with opened(f"{address}/docs") as page:
        page.get_by_role("button", name="GET /health/live Live").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        expect(page.get_by_text('"alive"').first).to_be_visible()


def take_images(folder: Path) -> None:
    """Takes the screenshots of the page for the documentation."""
    with service() as address, launched() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 880}, color_scheme="light", reduced_motion="reduce")
        page.goto(address)
        for name in ("first.png", "sign.png"):  # the first response takes longer
            choose(page, file(name, sign(ROAD_WORKS, 11, 64)))
            expect(page.get_by_role("img", name=f"The image {name}")).to_be_visible()
            expect(page.get_by_role("img", name="Saliency map")).to_be_visible()
        page.screenshot(path=folder / "page.png", full_page=True)
        scenes = {13: 9, STOP: 11, 1: 7, 38: 1, 33: 7}
        signs = [file(f"frame_{class_id}.png", sign(class_id, seed, 64)) for class_id, seed in scenes.items()]
        page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        choose(page, *signs, wall(), file("notes.txt", b"no image"))
        headline(page, re.compile("^7 images"))
        page.screenshot(path=folder / "page_several.png", full_page=True)


if __name__ == "__main__":
    take_images(ROOT / "docs" / "images")
