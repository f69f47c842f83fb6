from pathlib import Path

import pytest
from matplotlib.figure import Figure

from src.mlops.io.figures import label, save_figure


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("stop", "stop"),
        ("x" * 10, "x" * 10),
        ("x" * 11, "x" * 9 + "…"),  # a long word, or a language without spaces
        ("long name of a class", "long name…"),
        ("$5", r"\$5"),
    ],
)
def test_labels(name: str, shown: str) -> None:
    assert label(name, 10) == shown


@pytest.mark.parametrize("name", ["$a_{$", r"\$a$", "^_{}%", "a\u200cb", "日本"])
def test_any_label_can_be_drawn(name: str, tmp_path: Path) -> None:
    figure = Figure()
    figure.suptitle(label(name))
    save_figure(figure, tmp_path / "figure.png")
