"""README and its image."""

from docs_generator import overview
from docs_generator.__main__ import OVERVIEW
from src.mlops import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_image_is_up_to_date() -> None:
    assert OVERVIEW.read_text(encoding="utf-8") == overview.overview(), "run: uv run python -m docs_generator"


def test_it_starts_with_the_image_and_the_commands() -> None:
    assert (
        README.index("docs/images/overview.svg") < README.index("inv quickstart") < README.index("\n## What is in it")
    )


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 120
