"""Tests the search for wrong labels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.mlops.config import Config
from src.mlops.data.prepare import prepare
from src.mlops.errors import ConfigError, DataError
from src.mlops.evaluation.confident_learning import confident_joint, doubtful_labels, estimate_errors
from src.mlops.evaluation.label_errors import label_errors
from src.mlops.training.tracking import CsvTracker
from tests.helpers.images import make_image

MakeConfig = Callable[..., Config]
WRONG = "Train/1/00001_00002_00003.png"
EPOCHS = 8


@pytest.fixture
def flipped(raw_dir: Path, make_config: MakeConfig) -> MakeConfig:
    """Returns a function that composes a config for data in which one image of class 0 has the label 1."""
    make_image(0, seed=777).save(raw_dir / WRONG)
    return lambda *overrides: make_config(f"training.epochs={EPOCHS}", *overrides)


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list to which each trained epoch is added."""
    trained: list[int] = []
    log = CsvTracker.log

    def counted(tracker: CsvTracker, metrics: dict[str, float]) -> None:
        trained.append(int(metrics["epoch"]))
        log(tracker, metrics)

    monkeypatch.setattr(CsvTracker, "log", counted)
    return trained


class TestConfidentLearning:
    def test_confident_joint(self) -> None:
        probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.9, 0.1], [0.4, 0.6]])
        labels = np.array([0, 0, 1, 1, 0])
        # The thresholds are (0.9 + 0.8 + 0.4) / 3 = 0.7 and (0.9 + 0.1) / 2 = 0.5.
        assert confident_joint(probabilities, labels).tolist() == [[2, 1], [1, 1]]
        assert estimate_errors(probabilities, labels) == 2
        assert doubtful_labels(probabilities, labels).tolist() == [3, 4]

    def test_images_without_a_confident_prediction_are_assumed_to_be_like_the_others(self) -> None:
        right, wrong, unclear = [0.0, 1.0], [1.0, 0.0], [0.45, 0.55]
        probabilities = np.array([right] * 6 + [wrong] * 2 + [unclear] * 4 + [[1.0, 0.0]] * 5)
        labels = np.array([1] * 12 + [0] * 5)
        assert confident_joint(probabilities, labels).tolist() == [[5, 0], [2, 6]]
        assert estimate_errors(probabilities, labels) == 3  # a quarter of 12

    def test_thresholds_compensate_for_a_class_that_is_predicted_too_often(self) -> None:
        probabilities = np.array([[0.99, 0.01], [0.99, 0.01], [0.6, 0.4], [0.6, 0.4]])
        labels = np.array([0, 0, 1, 1])
        assert confident_joint(probabilities, labels).tolist() == [[2, 0], [0, 2]]
        assert not len(doubtful_labels(probabilities, labels))

    def test_a_class_without_images_is_never_confident(self) -> None:
        probabilities = np.array([[0.2, 0.1, 0.7], [0.1, 0.2, 0.7]])
        assert confident_joint(probabilities, np.array([0, 1])).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_finds_a_wrong_label(flipped: MakeConfig, tmp_path: Path) -> None:
    config = flipped()
    found = label_errors(config)
    first = found.iloc[0]
    assert (first["rank"], first["path"]) == (1, WRONG)
    assert (first["class_id"], first["name"]) == (1, "Speed limit 30 km/h")
    assert (first["predicted_class"], first["predicted_name"]) == (0, "Speed limit 20 km/h")
    assert first["label_probability"] < first["predicted_probability"] <= 1
    assert len(found) < 20
    pd.testing.assert_frame_equal(found, pd.read_csv(tmp_path / "reports/label_errors.csv"))
    assert (tmp_path / "reports/figures/label_errors.png").stat().st_size > 10_000
    assert not found["path"].str.startswith("Test").any()
    assert not config.ckpt_path.exists()


def test_found_images_can_be_left_out(flipped: MakeConfig, tmp_path: Path) -> None:
    found = label_errors(flipped())
    exclude = f"data.exclude={tmp_path / 'reports/label_errors.csv'}"
    with pytest.raises(ConfigError, match="would be overwritten"):
        label_errors(flipped(exclude))
    pack = prepare(flipped(exclude).data)
    assert len(pack.load("train", "val").rows) == 80 - len(found)
    assert WRONG not in pack.load("train", "val").paths


def test_second_run_reuses_the_folds(flipped: MakeConfig, epochs: list[int]) -> None:
    first = label_errors(flipped())
    assert len(epochs) == 5 * EPOCHS
    pd.testing.assert_frame_equal(label_errors(flipped("evaluation.batch_size=7")), first)
    assert len(epochs) == 5 * EPOCHS
    label_errors(flipped("seed=7"))
    assert len(epochs) == 10 * EPOCHS


def test_an_interrupted_run_continues(
    flipped: MakeConfig, epochs: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = label_errors(flipped(f"run_dir={tmp_path / 'other'}"))
    epochs.clear()
    with monkeypatch.context() as patch:
        log = CsvTracker.log

        def interrupted(tracker: CsvTracker, metrics: dict[str, float]) -> None:
            log(tracker, metrics)
            if len(epochs) == 2 * EPOCHS + 3:  # in the third fold
                raise KeyboardInterrupt

        patch.setattr(CsvTracker, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            label_errors(flipped())
    pd.testing.assert_frame_equal(label_errors(flipped()), expected)
    assert len(epochs) == 5 * EPOCHS + 3  # the metrics of the three epochs are written again
    assert not list((tmp_path / "run").rglob("*.pth"))


def test_a_class_with_one_track_is_not_checked(
    flipped: MakeConfig, raw_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pd.read_csv(raw_dir / "Train.csv")
    only = table["Path"].str.match(r"Train/3/00003_0000[1-4]")
    table[~only].to_csv(raw_dir / "Train.csv", index=False)
    for path in table.loc[only, "Path"]:
        (raw_dir / path).unlink()
    found = label_errors(flipped())
    assert found["path"].iloc[0] == WRONG
    assert 3 not in set(found["class_id"])
    assert "1 classes cannot be checked" in caplog.text


def test_settings_of_the_training(flipped: MakeConfig, checkpoint: Path, epochs: list[int]) -> None:
    with pytest.raises(ConfigError, match="size_schedule has 32 px"):
        label_errors(flipped("training.size_schedule=[[32, 0.5]]"))
    unused = [f"training.start_from={checkpoint}", f"training.teachers=[{checkpoint}]"]
    unused += ["training.outliers={images: 100, seed: 0}"]
    found = label_errors(flipped("training.epochs=1", *unused, "training.leave_out=[0]"))
    assert len(epochs) == 5
    assert 0 not in set(found["class_id"])


def test_large_data_is_trained_on_for_fewer_epochs(
    flipped: MakeConfig, epochs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.mlops.evaluation.label_errors.STEPS", 12)
    label_errors(flipped())
    assert len(epochs) == 5 * 3  # 64 training images are four steps
    label_errors(flipped("training.epochs=30"))
    assert len(epochs) == 5 * 3 + 5 * 5  # a sixth


def test_no_doubtful_label(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("src.mlops.evaluation.label_errors.doubtful_labels", lambda *_: np.empty(0, np.int64))
    assert label_errors(make_config()).empty
    assert (tmp_path / "reports/label_errors.csv").read_text().startswith("rank,path,class_id,name,")


def test_folders_that_cannot_be_written(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"write to the folder .*file/"):
        label_errors(make_config(f"run_dir={tmp_path / 'file'}"))
    with pytest.raises(DataError, match=r"reports to .*file: "):
        label_errors(make_config("training.epochs=1", f"evaluation.reports_dir={tmp_path / 'file'}"))


def test_a_full_disk_at_the_end_of_a_fold(
    flipped: MakeConfig, epochs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("src.mlops.evaluation.folds.write_atomically", full)
        with pytest.raises(DataError, match=r"Cannot write .*fold_0\.npy: .*No space.*continues"):
            label_errors(flipped("training.epochs=2"))
    label_errors(flipped("training.epochs=2"))
    assert len(epochs) == 5 * 2 + 2  # the metrics of the first fold are written again
