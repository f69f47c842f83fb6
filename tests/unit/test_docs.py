"""The documentation: generated parts, navigation, and the diagram of the architecture."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs_generator import architecture, overview, python_api
from docs_generator.__main__ import DIAGRAM, DOCS, OVERVIEW, PARTS, documents, render
from src.mlops import ROOT


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(DOCS)))
def test_generated_parts_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert render(text) == text, "run: uv run python -m docs_generator"


def test_the_diagrams_are_up_to_date() -> None:
    assert DIAGRAM.read_text(encoding="utf-8") == architecture.diagram(), "run: uv run python -m docs_generator"
    assert OVERVIEW.read_text(encoding="utf-8") == overview.overview(), "run: uv run python -m docs_generator"


def test_every_part_is_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in documents())
    assert [name for name in PARTS if f"<!-- generated: {name} -->" not in text] == []


def test_every_package_has_a_page() -> None:
    assert {page.stem for page in (DOCS / "reference/python").glob("*.md")} == {*python_api.packages(), "index"}


def test_every_step_of_the_architecture_exists() -> None:
    tasks = runpy.run_path(str(ROOT / "tasks.py"))["namespace"].task_names
    for step in architecture.STEPS:
        assert step.command in tasks
        assert (python_api.SOURCE / step.module).is_file()
        assert step.stage in architecture.STAGES


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags stand for environment variables and functions."""


_Loader.add_multi_constructor("", lambda loader, suffix, node: None)


def test_every_page_is_in_the_navigation_once() -> None:
    navigation = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"]
    assert sorted(listed(navigation)) == [page.relative_to(DOCS).as_posix() for page in documents()]


def listed(entry: Any) -> list[str]:
    """Returns the pages in a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [page for value in values for page in listed(value)]
