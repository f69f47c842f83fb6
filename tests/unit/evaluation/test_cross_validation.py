"""Cross-validation of settings, and the comparison of two configurations."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from src.mlops.config import Config, SyntheticConfig
from src.mlops.data.augment import OUTLIER
from src.mlops.data.dataset import Batches
from src.mlops.data.packing import SplitArrays
from src.mlops.data.prepare import prepare
from src.mlops.errors import ConfigError, DataError
from src.mlops.evaluation.cross_validation import app, compare, cross_validate, summarise
from src.mlops.modelfile.checkpoint import read_plain, write_content
from src.mlops.training.tracking import CsvTracker
from tests.helpers.synthetic import draw_quickly
from tests.helpers.tiny import tiny_overrides, write_collected, write_kaggle

MakeConfig = Callable[..., Config]
NUMBERS = np.array([0, 0, 0, 0, 1, 1])  # folds of four and two images


class Seen:
    """The epochs that were trained, and the images that they were trained on."""

    def __init__(self) -> None:
        self.epochs = 0
        self.images: list[SplitArrays] = []  # of each epoch
        self.stop_at: int | None = None


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Divides images into two folds, which is fast, and counts the epochs."""
    monkeypatch.setattr("src.mlops.evaluation.folds.FOLDS", 2)
    noted = Seen()
    log, epoch = CsvTracker.log, Batches.epoch

    def counted(tracker: CsvTracker, metrics: dict[str, float]) -> None:
        log(tracker, metrics)
        noted.epochs += 1
        if noted.epochs == noted.stop_at:
            raise KeyboardInterrupt

    def iterated(batches: Batches, number: int = 0) -> Any:
        if batches.seed is not None:
            noted.images.append(batches.arrays)
        return epoch(batches, number)

    monkeypatch.setattr(CsvTracker, "log", counted)
    monkeypatch.setattr(Batches, "epoch", iterated)
    return noted


class TestNumbers:
    def test_accuracy_and_standard_error(self) -> None:
        wrong = np.array([[1, 0, 0, 0, 1, 0], [1, 1, 0, 0, 0, 0]], bool)
        found = summarise(wrong, NUMBERS)
        # The accuracies are 3/4 and 1/2, then 2/4 and 2/2, so those of the folds are 5/8 and 6/8.
        assert found["accuracy"] == pytest.approx(11 / 16)
        assert found["standard_error"] == pytest.approx(math.sqrt(2 * (1 / 16) ** 2) / math.sqrt(2))
        assert found["wrong"] == [2, 2]
        assert found["results"] == [
            [{"images": 4, "wrong": 1, "accuracy": 0.75}, {"images": 2, "wrong": 1, "accuracy": 0.5}],
            [{"images": 4, "wrong": 2, "accuracy": 0.5}, {"images": 2, "wrong": 0, "accuracy": 1.0}],
        ]

    def test_difference(self) -> None:
        first = np.array([[1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 1, 1]], bool)
        second = np.array([[1, 0, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0]], bool)
        found = compare(first, second, NUMBERS, tracks=np.array([0, 0, 1, 1, 2, 3]))
        assert found["by_fold"] == [[0.25, 0.0], [0.0, 1.0]]
        assert found["accuracy"] == pytest.approx((0.125 + 0.5) / 2)
        assert found["standard_error"] == pytest.approx((0.5 - 0.125) / 2)
        assert found["only_first_wrong"] == {"images": [1, 3], "tracks": 3}
        assert found["only_second_wrong"] == {"images": [0, 1], "tracks": 1}

    def test_what_is_difficult_for_both_does_not_add_to_the_error_of_the_difference(self) -> None:
        first = np.array([[1, 1, 1, 0, 0, 0]], bool)
        assert summarise(first, NUMBERS)["standard_error"] > 0.3
        found = compare(first, first, NUMBERS, tracks=np.arange(6))
        assert (found["accuracy"], found["standard_error"]) == (0, 0)
        assert found["only_first_wrong"] == {"images": [0], "tracks": 0}


def test_every_image_is_classified_by_a_model_that_does_not_know_its_track(
    make_config: MakeConfig, seen: Seen, tmp_path: Path
) -> None:
    config = make_config("training.epochs=1")
    found = cross_validate(config)
    assert found == json.loads((tmp_path / "reports/cross_validation.json").read_text())
    [one] = found["configurations"]
    assert (found["images"], found["tracks"], found["folds"], found["difference"]) == (80, 20, 2, None)
    assert one["seeds"] == [42]
    assert one["settings"]["model"]["width"] == 4
    assert sum(fold["images"] for fold in one["results"][0]) == 80
    assert sum(fold["wrong"] for fold in one["results"][0]) == one["wrong"][0]
    first, second = (set(images.paths) for images in seen.images)
    assert first | second == set(prepare(config.data).load("train", "val").paths)
    assert not {path[:-10] for path in first} & {path[:-10] for path in second}  # without the number of the frame
    assert not config.ckpt_path.exists()
    assert not list((tmp_path / "run").rglob("*.pth"))


def test_finished_folds_are_reused(make_config: MakeConfig, seen: Seen) -> None:
    alone = cross_validate(make_config("training.epochs=2"))
    assert seen.epochs == 4
    both = cross_validate(make_config("training.epochs=2"), make_config("training.epochs=3"), seeds=2)
    assert seen.epochs == 4 + 4 + 12
    assert both["configurations"][0]["results"][0] == alone["configurations"][0]["results"][0]
    assert both["configurations"][1]["seeds"] == [42, 43]
    unimportant = ("evaluation.batch_size=7", "training.early_stopping=1", "training.final_fit=true")
    assert cross_validate(make_config("seed=43", "training.epochs=3", *unimportant))["images"] == 80
    assert seen.epochs == 20


def test_an_interrupted_command_continues(make_config: MakeConfig, seen: Seen, tmp_path: Path) -> None:
    expected = cross_validate(make_config("training.epochs=3", f"run_dir={tmp_path / 'other'}"))
    seen.epochs, seen.stop_at = 0, 3 + 2  # in the second fold
    with pytest.raises(KeyboardInterrupt):
        cross_validate(make_config("training.epochs=3"))
    assert cross_validate(make_config("training.epochs=3")) == expected
    assert seen.epochs == 3 + 3 + 2  # the metrics of two epochs are written again


def test_comparison(make_config: MakeConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = make_config("training.epochs=1", "data.image_size=32", f"data.processed_dir={tmp_path / 'large'}")
    found = cross_validate(make_config("training.epochs=1"), other)
    assert found["changed"] == {"data.image_size": [24, 32]}
    accuracies = [one["accuracy"] for one in found["configurations"]]
    assert found["difference"]["accuracy"] == pytest.approx(accuracies[1] - accuracies[0])
    only = [found["difference"][f"only_{name}_wrong"]["images"][0] for name in ("first", "second")]
    wrong = [one["wrong"][0] for one in found["configurations"]]
    assert only[0] - only[1] == wrong[0] - wrong[1]
    printed = capsys.readouterr().out
    assert "80 images of 20 tracks in 2 folds\nfirst: data.image_size=24\nsecond: data.image_size=32\n" in printed
    assert f"{100 * found['difference']['accuracy']:+.3f}" in printed


def test_added_images_are_trained_on_in_every_fold(
    make_config: MakeConfig, seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_quickly(monkeypatch)
    write_collected(tmp_path / "collected", ["1", "2"])
    config = make_config("training.epochs=1", f"data.collected={tmp_path / 'collected'}")
    drawn = SyntheticConfig(tracks_per_class=2, frames_per_track=1, test_tracks_per_class=1, seed=0)
    config = config.model_copy(update={"training": config.training.model_copy(update={"drawn": drawn})})
    assert cross_validate(config)["images"] == 80
    real = set(prepare(config.data).load("train", "val").hashes)
    first, second = (set(images.hashes) for images in seen.images)
    assert first & real | second & real == real
    assert not first & second & real
    assert first - real == second - real
    by_hash = dict(zip(seen.images[0].hashes, seen.images[0].paths, strict=True))
    assert {by_hash[one].split("/")[0] for one in first - real} == {
        "Train",
        "Test",
        "images",
    }  # drawings, and collected images


def test_outliers_are_trained_on_in_every_fold(make_config: MakeConfig, seen: Seen) -> None:
    assert cross_validate(make_config("training.epochs=1", "training.outliers={images: 100, seed: 0}"))["images"] == 80
    first, second = (np.count_nonzero(images.labels == OUTLIER) for images in seen.images)
    assert first == second >= 100


def test_a_teacher(
    make_config: MakeConfig, seen: Seen, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = Path(shutil.copy(checkpoint, tmp_path / "teacher.pth"))
    config = make_config("training.epochs=1", f"training.teachers=[{teacher}]")
    cross_validate(config)
    assert "A teacher that was trained on images of these folds passes on" in caplog.text
    write_content(teacher, read_plain(teacher) | {"epoch": 7})
    before = seen.epochs
    cross_validate(config)
    assert seen.epochs == before + 2  # another file at the same place
    teacher.unlink()
    with pytest.raises(ConfigError, match=r"training\.teachers: there is no .*teacher\.pth"):
        cross_validate(config)


def test_left_out_classes_are_neither_trained_on_nor_measured(make_config: MakeConfig, seen: Seen) -> None:
    left_out = make_config("training.epochs=1", "training.leave_out=[1]")
    assert cross_validate(left_out)["images"] == 60
    assert all(1 not in images.labels for images in seen.images)
    with pytest.raises(ConfigError, match=r"same images in the same folds \(80 and 60 images\)"):
        cross_validate(make_config("training.epochs=1"), left_out)


@pytest.mark.parametrize(
    ("own", "other", "message"),
    [
        ((), ("evaluation.batch_size=7",), "nothing to compare"),
        ((), ("data.split.seed=1",), "same images in the same folds"),
        (("training.start_from=model.pth",), (), r"training\.start_from must be null"),
        ((), ("training.epochs=1", "training.start_from=model.pth"), r"training\.start_from must be null"),
        (("training.leave_out=[43]",), (), "class 43 does not exist"),
        (("model.dropout=1",), (), r"model\.dropout must be below 1"),
    ],
)
def test_settings_that_cannot_be_used(
    own: tuple[str, ...], other: tuple[str, ...], message: str, make_config: MakeConfig, seen: Seen
) -> None:
    with pytest.raises(ConfigError, match=message):
        cross_validate(make_config(*own), make_config(*own, *other) if other else None)
    assert seen.epochs == 0


@pytest.mark.parametrize(("seed", "seeds", "message"), [(1, 0, "--seeds must be 1 or more"), (2**32 - 1, 2, "seed: ")])
def test_seeds_out_of_range(seed: int, seeds: int, message: str, make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=message):
        cross_validate(make_config(f"seed={seed}"), seeds=seeds)


def test_folders_that_cannot_be_written(make_config: MakeConfig, tmp_path: Path, seen: Seen) -> None:
    (tmp_path / "file").touch()
    for key in ("run_dir", "evaluation.reports_dir"):
        with pytest.raises(ConfigError, match=r"write to the folder .*file"):
            cross_validate(make_config(f"{key}={tmp_path / 'file'}"))
    assert seen.epochs == 0


def test_too_few_tracks(make_config: MakeConfig, tmp_path: Path) -> None:
    raw = write_kaggle(tmp_path / "few", classes=4, tracks=1, frames=1)
    with pytest.raises(DataError, match="class needs 2 groups"):
        cross_validate(make_config(f"data.raw_dir={raw}"))


def test_a_class_with_one_track_is_warned_about(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = write_kaggle(tmp_path / "few", classes=3)
    table = (raw / "Train.csv").read_text().splitlines(keepends=True)
    (raw / "Train.csv").write_text("".join(row for row in table if "/2/" not in row or "/00002_00000_" in row))
    for path in (raw / "Train" / "2").glob("*_0000[1-4]_*"):
        path.unlink()
    cross_validate(make_config("training.epochs=1", f"data.raw_dir={raw}"))
    assert "1 classes have images in one fold only, for example Speed limit 50 km/h" in caplog.text


def test_command(raw_dir: Path, tmp_path: Path) -> None:
    words = [*tiny_overrides(tmp_path, raw_dir), "training.epochs=1", "--other", "training.precision=bf16"]
    ended = CliRunner().invoke(app, words, catch_exceptions=False)
    assert ended.exit_code == 0
    found = json.loads((tmp_path / "reports/cross_validation.json").read_text())
    assert found["changed"] == {"training.precision": ["fp32", "bf16"]}
    assert found["configurations"][1]["seeds"] == [42]
