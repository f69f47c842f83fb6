"""Figures of an evaluation."""

from pathlib import Path

from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.packing import open_pack
from src.mlops.evaluation import plots


def test_figure_of_mistakes_without_mistakes(tmp_path: Path, trained: Path) -> None:
    arrays = open_pack(trained / "processed").load("test")
    import pandas as pd

    right = pd.DataFrame({"class_id": arrays.labels, "predicted_class": arrays.labels, "probability": 1.0})
    plots.draw_mistakes(right, arrays, SIGNS, tmp_path / "none.png")
    assert (tmp_path / "none.png").exists()
