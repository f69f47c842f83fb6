"""The benchmarks of the detection of unknown images."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import environment, left_out, tables, unknown
from benchmarks.unknown import SIDE, crops_of
from src.mlops.errors import ConfigError, DataError
from tests.helpers.tiny import tiny_overrides, write_kaggle

SCORES = ["unknown score", "energy", "MSP", "Mahalanobis", "nearest neighbours", "norm"]


def test_crops_of_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unknown, "PER_KIND", 6)
    crops, again, others = (crops_of("scikit-learn", np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert [crop.size for crop in crops] == [(SIDE, SIDE)] * 6
    assert [crop.tobytes() for crop in crops] == [crop.tobytes() for crop in again]
    assert {crop.tobytes() for crop in crops}.isdisjoint(crop.tobytes() for crop in others)


def test_kinds_of_unknown_images(
    exported: Path, results: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unknown, "PER_KIND", 4)
    monkeypatch.setattr(unknown, "PER_SIGN", 1)
    missing = {"missing": (("no_such_package", "data"), ("some.png",))}
    monkeypatch.setattr(unknown, "PHOTOGRAPHS", {"scikit-learn": unknown.PHOTOGRAPHS["scikit-learn"], **missing})
    root = exported.parents[1]
    words = [word for word in tiny_overrides(root, root / "raw") if not word.startswith("training.")]
    with caplog.at_level(logging.WARNING):
        outcome = CliRunner().invoke(unknown.app, ["--name", "tiny", *words], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    assert "missing is not installed" in caplog.text
    rows = environment.read_results("unknown")
    assert {row["model"] for row in rows} == {"tiny"}
    images = {row["kind"]: int(row["images"]) for row in rows}
    assert images == {
        **dict.fromkeys(["blank", "noise", "texture", "object", "scenery", "half sign"], 4),
        "further signs: all (60)": 60,
        "further signs: speed limits (6)": 6,
        "further signs: shape of a known sign (41)": 41,
        "further signs: other shape (19)": 19,
        "photographs of scikit-learn": 4,
        "photographs without a sign (scenery, scikit-learn)": 8,
    }
    assert [row["score"] for row in rows if row["kind"] == "blank"] == SCORES
    for row in rows:
        assert all(0 <= float(row[column]) <= 1 for column in ("auroc", "fpr95", "called_unknown"))
    assert "**tiny**" in tables.TABLES["unknown"]()


def test_each_class_is_left_out_once(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left_out, "KEPT", tmp_path)
    monkeypatch.setattr(left_out, "CHEAP", [])  # without thousands of synthetic images
    own = ("run_dir=", "ckpt_path=", "training.export=", "training.epochs=")
    words = [word for word in tiny_overrides(tmp_path, write_kaggle(tmp_path / "raw")) if not word.startswith(own)]
    arguments = ["0", "1", "2", "3", "--trainings", "2", "--part", "2/2", "training.epochs=1", *words]
    outcome = CliRunner().invoke(left_out.app, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    rows = environment.read_results("left_out")
    assert Counter(row["class"] for row in rows) == {"1": 6, "3": 6}
    first = ("2", "1,3", "unknown score", "3", "Speed limit 30 km/h")
    assert tuple(rows[0][column] for column in ("trainings", "left_out", "score", "images", "name")) == first
    assert "raw_dir" not in rows[0]["overrides"]
    assert "training.epochs=1" in rows[0]["overrides"]
    assert "Speed limit 30 km/h" in tables.TABLES["left_out"]()

    monkeypatch.setattr(left_out, "train", lambda _: pytest.fail("these classes are measured already"))
    assert CliRunner().invoke(left_out.app, arguments, catch_exceptions=False).exit_code == 0


def test_images_of_the_class_in_the_training_are_an_error(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left_out, "KEPT", tmp_path)
    monkeypatch.setattr(left_out, "CHEAP", [])  # without thousands of synthetic images
    monkeypatch.setattr(left_out, "train", lambda _: {})
    monkeypatch.setattr("src.mlops.data.additional.without", lambda arrays, _: arrays)
    words = [word for word in tiny_overrides(tmp_path, write_kaggle(tmp_path / "raw")) if not word.startswith("run_")]
    with pytest.raises(
        DataError, match=r"The classes \[1\] are left out, but \d+ images of them are used for training"
    ):
        CliRunner().invoke(left_out.app, ["1", *words], catch_exceptions=False)


@pytest.mark.parametrize("part", ["3/2", "0/2", "1/0", "half", "1"])
def test_a_part_that_does_not_exist(part: str, results: Path) -> None:
    with pytest.raises(ConfigError, match="--part must be such as 1/2"):
        CliRunner().invoke(left_out.app, ["--part", part], catch_exceptions=False)
