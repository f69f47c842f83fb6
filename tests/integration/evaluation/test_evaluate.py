"""Evaluation, figures, metrics, calibration, tracking and prediction on files."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.mlops import visualize
from src.mlops.calibration import Calibration, expected_calibration_error
from src.mlops.config import Config, load_config
from src.mlops.data.packing import open_pack
from src.mlops.errors import CheckpointError, DataError
from src.mlops.evaluate import evaluate
from src.mlops.metrics import classification_metrics, per_class_metrics
from src.mlops.tracking import start_tracking
from src.mlops.train import train
from tests.conftest import tiny_overrides

FIGURES = ["learning_curves", "confusion_matrix", "per_class", "reliability", "worst_mistakes"]


def config_of(trained: Path, tmp_path: Path, *overrides: str) -> Config:
    own = [f"evaluation.reports_dir={tmp_path / 'reports'}", *overrides]
    return load_config(tiny_overrides(trained, trained / "raw") + own)


class TestEvaluate:
    @pytest.mark.parametrize(("split", "images"), [("train", 64), ("val", 16), ("test", 12)])
    def test_any_split(self, trained: Path, tmp_path: Path, split: str, images: int) -> None:
        results = evaluate(config_of(trained, tmp_path, f"evaluation.split={split}"))
        assert json.loads((tmp_path / "reports/metrics.json").read_text()) == results
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

    def test_other_size_than_the_model_was_trained_at(self, trained: Path, tmp_path: Path) -> None:
        other = config_of(trained, tmp_path, "data.image_size=32", f"data.processed_dir={tmp_path / 'p32'}")
        with pytest.raises(DataError, match="expected images of 24 px, as the model was trained at, found 32 px"):
            evaluate(other)

    def test_other_splits_are_told(self, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        own = [f"data.processed_dir={tmp_path / 'p'}", "data.split.seed=5", "evaluation.split=val"]
        evaluate(config_of(trained, tmp_path, *own))
        assert "it may have seen images of this val split" in caplog.text

    def test_no_checkpoint(self, trained: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="inv train"):
            evaluate(config_of(trained, tmp_path, f"ckpt_path={tmp_path / 'none.pth'}"))

    def test_reports_that_cannot_be_written(self, trained: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="expected to write reports"):
            evaluate(config_of(trained, tmp_path, f"evaluation.reports_dir={tmp_path / 'file' / 'x'}"))


def test_figures_of_a_faultless_model(tmp_path: Path, trained: Path) -> None:
    arrays = open_pack(trained / "processed").load("test")
    import pandas as pd

    right = pd.DataFrame({"class_id": arrays.labels, "predicted_class": arrays.labels, "probability": 1.0})
    visualize.draw_mistakes(right, arrays, tmp_path / "none.png")
    assert (tmp_path / "none.png").exists()


def test_sheet_that_cannot_be_written(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="expected to write"):
        visualize.main(config_of(trained, tmp_path, f"evaluation.reports_dir={tmp_path / 'file'}"))


def test_data_sheet(trained: Path, tmp_path: Path) -> None:
    visualize.main(config_of(trained, tmp_path))
    assert (tmp_path / "reports/figures/data_sheet.png").stat().st_size > 10_000


class TestMetrics:
    labels = np.array([0, 0, 0, 1, 1, 5])
    predicted = np.array([0, 0, 1, 1, 1, 2])

    def test_macro_averages_over_the_classes_that_occur(self) -> None:
        metrics = classification_metrics(self.labels, self.predicted)
        assert metrics["Accuracy"] == pytest.approx(4 / 6)
        assert metrics["Recall"] == pytest.approx((2 / 3 + 1 + 0) / 3)
        assert metrics["Precision"] == pytest.approx((1 + 2 / 3 + 0) / 3)

    def test_per_class(self) -> None:
        rows = per_class_metrics(self.labels, self.predicted)
        assert [(row["class_id"], row["images"]) for row in rows] == [(0, 3), (1, 2), (5, 1)]
        assert rows[0]["recall"] == pytest.approx(2 / 3)


class TestCalibration:
    @staticmethod
    def drawn(scale: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
        """Logits whose softmax at temperature `scale` is the true distribution of their labels."""
        rng = np.random.default_rng(0)
        honest = rng.normal(0, 2, (count, 10)).astype(np.float32)
        labels = (honest + rng.gumbel(size=honest.shape)).argmax(axis=1)
        return honest * np.float32(scale), labels

    @pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
    def test_temperature_makes_probabilities_honest(self, scale: float) -> None:
        logits, labels = self.drawn(scale)
        calibration = Calibration.fit(logits, labels)
        assert calibration.temperature == pytest.approx(scale, rel=0.05)
        assert expected_calibration_error(calibration.probabilities(logits), labels) < 0.01
        np.testing.assert_allclose(calibration.probabilities(logits).sum(axis=1), 1)

    def test_sets_cover_and_alarms_stay_rare(self) -> None:
        logits, labels = self.drawn(1.0, 40_000)
        calibration = Calibration.fit(logits[:20_000], labels[:20_000])
        fresh, truth = logits[20_000:], labels[20_000:]
        _, sets = calibration.prediction_sets(calibration.probabilities(fresh))
        covered = np.array([label in kept for label, kept in zip(truth, sets, strict=True)])
        assert covered.mean() == pytest.approx(0.999, abs=0.0011)
        assert (calibration.energy(fresh) > calibration.energy_threshold).mean() == pytest.approx(0.01, abs=0.004)

    def test_too_few_images_rule_nothing_out(self) -> None:
        logits, labels = self.drawn(1.0, 100)
        calibration = Calibration.fit(logits, labels)
        assert calibration.prediction_sets(calibration.probabilities(logits))[1][0] == list(range(10))

    @pytest.mark.parametrize("coverage", [0.5, 0.9, 0.99])
    def test_coverage_is_what_was_asked_for(self, coverage: float) -> None:
        logits, labels = self.drawn(1.0, 40_000)
        calibration = Calibration.fit(logits[:20_000], labels[:20_000], coverage=coverage)
        _, sets = calibration.prediction_sets(calibration.probabilities(logits[20_000:]))
        covered = np.mean([label in kept for label, kept in zip(labels[20_000:], sets, strict=True)])
        # Sets are never empty, so a coverage below the accuracy is exceeded.
        assert covered >= coverage - 0.01
        if coverage >= 0.9:
            assert covered == pytest.approx(coverage, abs=0.015)

    def test_a_sure_answer_stands_alone(self) -> None:
        calibration = Calibration(set_threshold=0.95)
        assert calibration.prediction_sets(np.array([[0.01, 0.98, 0.01], [0.5, 0.3, 0.2]]))[1] == [[1], [0, 1]]

    def test_survives_the_checkpoint(self) -> None:
        calibration = Calibration(1.5, 0.1, -3.0, 0.99)
        assert Calibration.from_dict(calibration.to_dict()) == calibration

    def test_error_of_a_boaster(self) -> None:
        probabilities = np.tile([0.9, 0.1], (100, 1))
        labels = np.array([0] * 50 + [1] * 50)
        assert expected_calibration_error(probabilities, labels) == pytest.approx(0.4)


class TestTracking:
    def test_resumed_csv_has_no_line_twice(self, make_config: Callable[..., Config], tmp_path: Path) -> None:
        config = make_config()
        rows = [{"epoch": float(epoch), "val_loss": 1 / epoch} for epoch in (1, 2)]
        tracker = start_tracking(tmp_path, config, [])
        for row in rows:
            tracker.log(row)
        start_tracking(tmp_path, config, rows[:1])
        assert (tmp_path / "metrics.csv").read_text().splitlines() == ["epoch,val_loss", "1.0,1.0"]
        assert json.loads((tmp_path / "config.json").read_text()) == config.to_dict()

    def test_wandb_offline_without_account_and_network(
        self, make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        train(make_config("tracking=wandb"))
        assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
        assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3

    def test_a_resumed_run_is_the_same_run_of_wandb(
        self, make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))

        def interrupt(_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(make_config("tracking=wandb"), on_epoch=interrupt)
        train(make_config("tracking=wandb", "training.resume=true"))
        runs = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
        assert len(runs) == 2
        assert {folder.name.split("-")[3] for folder in runs} == {(tmp_path / "run/wandb_id.txt").read_text()}

    def test_wandb_that_does_not_start_leaves_the_csv(
        self, make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_MODE", "bogus")
        train(make_config("tracking=wandb", "training.epochs=1"))
        assert (tmp_path / "run" / "metrics.csv").is_file()
