"""A running service and a real browser for tests of its pages. They need the group browser and Chromium."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from src.mlops.io.service_process import running
from src.mlops.modelfile.locate import BUNDLED

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="the group browser is not installed: uv sync --group browser"
)
expect = sync_api.expect
PATIENCE = 30_000  # timeout in ms, long enough for a busy machine
# Records the object URLs of a page and the violations of its security policy.
WATCH = """
window.liveUrls = new Set(); window.violations = [];
const { createObjectURL, revokeObjectURL } = URL;
URL.createObjectURL = (blob) => { const url = createObjectURL(blob); liveUrls.add(url); return url; };
URL.revokeObjectURL = (url) => { liveUrls.delete(url); revokeObjectURL(url); };
document.addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""
Open = Callable[..., "AbstractContextManager[Page]"]


def chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def service(**environment: str) -> Iterator[str]:
    """Starts the service with the bundled model and yields its address."""
    command = [sys.executable, "-m", "src.mlops.api", "--port", "{port}"]
    settings = {"MLOPS_MODEL": BUNDLED, "MLOPS_API_KEYS": "", **environment}
    with running(command, "/health/ready", settings) as client:
        yield str(client.base_url)


@contextmanager
def launched() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE)
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


def axe(page: Page) -> list[str]:
    """Returns what axe-core finds in a page: what keeps people from using it, with the first element of each kind."""
    module = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="the group browser is not installed: uv sync --group browser"
    )
    # A card that fades in has less contrast.
    page.locator("[aria-busy=true]").first.wait_for(state="detached")
    page.evaluate("() => Promise.all(document.getAnimations().map(one => one.finished))")
    found = module.Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['help']}: {one['nodes'][0]['html']}" for one in found]


def opener(browser: Browser) -> Open:
    """Returns a function that opens an address and, at the end, checks that no error occurred."""

    @contextmanager
    def open_page(
        url: str, *, expected_errors: str = r"(?!)", through: Callable[[Route], None] | None = None, **options: Any
    ) -> Iterator[Page]:
        said: list[str] = []
        requested: list[str] = []
        with browser.new_context(
            viewport=options.pop("viewport", {"width": 1100, "height": 900}), **options
        ) as context:
            context.set_default_timeout(PATIENCE)
            context.add_init_script(WATCH)
            page = context.new_page()
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: requested.append(request.url))
            page.on("filechooser", lambda _: None)  # added early: a late listener misses quick events
            if through:
                page.route("**/*", through)
            page.goto(url)
            yield page
            assert page.evaluate("violations") == []
        origin = url.split("/", 3)[:3]
        elsewhere = [url for url in requested if url.removeprefix("blob:").split("/", 3)[:3] != origin]
        assert [url for url in elsewhere if not url.startswith("data:")] == []
        assert [text for text in said if not re.search(expected_errors, text)] == []

    return open_page
