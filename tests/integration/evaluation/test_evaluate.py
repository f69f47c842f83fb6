"""Evaluation of a checkpoint: metrics, predictions and figures."""

import csv
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from src.mlops.config import Config
from src.mlops.errors import CheckpointError, DataError
from src.mlops.evaluation.evaluate import evaluate
from tests.helpers.tiny import quick_config, tiny_overrides

FIGURES = ["learning_curves", "confusion_matrix", "per_class", "reliability", "worst_mistakes"]


def config_of(trained: Path, tmp_path: Path, *overrides: str) -> Config:
    own = [f"evaluation.reports_dir={tmp_path / 'reports'}", *overrides]
    return quick_config(tiny_overrides(trained, trained / "raw") + own)


class TestEvaluate:
    @pytest.mark.parametrize(("split", "images"), [("train", 64), ("val", 16), ("test", 12)])
    def test_any_split(self, trained: Path, tmp_path: Path, split: str, images: int) -> None:
        results = evaluate(config_of(trained, tmp_path, f"evaluation.split={split}"))
        assert json.loads((tmp_path / "reports/metrics.json").read_text()) == results
        assert len(max(map(str, results["provenance"].values()), key=len)) < 200  # `dvc metrics diff` prints all texts
        assert (results["split"], results["images"]) == (split, images)
        with (tmp_path / "reports/predictions.csv").open() as file:
            rows = list(csv.DictReader(file))
        wrong = sum(row["class_id"] != row["predicted_class"] for row in rows)
        assert wrong == results["errors"] == round((1 - results["Accuracy"]) * images)

    def test_draws_every_figure(self, trained: Path, tmp_path: Path) -> None:
        evaluate(config_of(trained, tmp_path))
        for name in FIGURES:
            with Image.open(tmp_path / "reports/figures" / f"{name}.png") as figure:
                assert min(figure.size) > 150

    def test_works_without_the_raw_images(self, trained: Path, tmp_path: Path) -> None:
        with_raw = evaluate(config_of(trained, tmp_path))
        without = evaluate(config_of(trained, tmp_path, "data.raw_dir=null"))
        assert with_raw == without

    def test_rejects_images_of_another_size_than_in_training(self, trained: Path, tmp_path: Path) -> None:
        other = config_of(trained, tmp_path, "data.image_size=32", f"data.processed_dir={tmp_path / 'p32'}")
        with pytest.raises(DataError, match=r"(?=.*24 px)(?=.*32 px)(?=.*data\.image_size=24)"):
            evaluate(other)

    def test_warns_about_other_splits_than_in_training(
        self, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        own = [f"data.processed_dir={tmp_path / 'p'}", "data.split.seed=5", "evaluation.split=val"]
        evaluate(config_of(trained, tmp_path, *own))
        warnings = [record for record in caplog.records if record.levelname == "WARNING"]
        assert ("src.mlops.evaluation.evaluate", ("val",)) in [(record.name, record.args) for record in warnings]

    def test_missing_checkpoint(self, trained: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"none\.pth.*inv train"):
            evaluate(config_of(trained, tmp_path, f"ckpt_path={tmp_path / 'none.pth'}"))

    def test_reports_that_cannot_be_written(self, trained: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match=re.escape(str(tmp_path / "file" / "x"))):
            evaluate(config_of(trained, tmp_path, f"evaluation.reports_dir={tmp_path / 'file' / 'x'}"))
