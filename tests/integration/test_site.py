"""The documentation site: a strict build, which fails for links to missing pages and headings."""

import re
from pathlib import Path

import pytest

from src.mlops import ROOT
from tests.helpers.site import REPOSITORY, build

DOCS = ROOT / "docs"
LOADED = re.compile(
    r'<(?:script|img|iframe)[^>]* src="(https?:[^"]*)"|<link[^>]* rel="stylesheet"[^>]* href="(https?:[^"]*)"'
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("site"))


def test_every_page_can_be_edited(site: Path) -> None:
    for page in sorted(DOCS.rglob("*.md")):
        name = page.relative_to(DOCS)
        folder = name.parent if name.stem == "index" else name.with_suffix("")
        html = (site / folder / "index.html").read_text(encoding="utf-8")
        assert f'href="{REPOSITORY}/edit/main/docs/{name.as_posix()}"' in html


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert LOADED.findall(page.read_text(encoding="utf-8")) == [], page


def test_the_python_reference_has_signatures_and_docstrings(site: Path) -> None:
    html = (site / "reference/python/modelfile/index.html").read_text(encoding="utf-8")
    assert 'id="src.mlops.modelfile.checkpoint.load_checkpoint"' in html
    assert "weights_only" in html or "restricted unpickler" in html
