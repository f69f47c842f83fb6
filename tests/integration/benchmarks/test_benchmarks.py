"""Tests that the benchmarks run."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from benchmarks import accuracy, environment, label_errors, loader, own_data, step, time_to_accuracy, uploads
from src.mlops.config import Config
from src.mlops.errors import ConfigError
from src.mlops.evaluation.evaluate import evaluate
from src.mlops.io.files import sha256
from src.mlops.training.train import train
from tests.helpers.images import make_image
from tests.helpers.tiny import tiny_overrides


@pytest.fixture
def overrides(tmp_path: Path, raw_dir: Path) -> list[str]:
    own = ("run_dir", "ckpt_path", "data.processed_dir", "evaluation", "model")
    return [one for one in tiny_overrides(tmp_path, raw_dir) if not one.startswith(own)]


def run(app: Typer, *words: str) -> None:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_loader(results: Path, overrides: list[str], tmp_path: Path) -> None:
    run(loader.app, "--repeat", "2", *overrides, f"data.processed_dir={tmp_path / 'processed'}")
    rows = {row["loader"]: row for row in environment.read_results("loader")}
    assert rows.keys() == {
        "packed", "packed + training step", "pillow", "pillow, 2 workers", "packed, one epoch",
    }  # fmt: skip
    assert all(float(row["images_per_second"]) > 0 for row in rows.values())
    assert rows["packed, one epoch"]["images"] == "128"
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "processed", "results"}


@pytest.fixture
def kept(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lets the benchmark of the accuracy run in this process, and returns the folder of its models."""

    def run_here(work: Callable[..., environment.Row], *arguments: Any) -> environment.Row:
        return {**work(*arguments), "peak_memory_mb": 1}

    monkeypatch.setattr(accuracy, "in_new_process", run_here)
    monkeypatch.setattr(accuracy, "KEPT", tmp_path / "kept")
    return tmp_path / "kept"


def test_accuracy(kept: Path, overrides: list[str], tmp_path: Path) -> None:
    overrides = [*overrides, f"data.processed_dir={tmp_path / 'processed'}"]
    run(accuracy.app, "default", "--seed", "3", *overrides)
    (row,) = environment.read_results("accuracy")
    assert (row["configuration"], row["seed"], row["test_images"], row["epochs"]) == ("default", "3", "12", "2")
    assert float(row["test_accuracy"]) >= 0.5  # there are four classes of one colour each
    assert float(row["mmac"]) > 1
    assert float(row["ms_per_image_onnx"]) > 0
    assert row["peak_memory_mb"] == "1"
    assert row["model"] == sha256(kept / "default-3/best_model.pth")[:12]


@pytest.mark.slow
def test_accuracy_of_kept_and_interrupted_trainings(
    kept: Path, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["default", *overrides, "model.width=4", f"data.processed_dir={tmp_path / 'processed'}"]
    done: list[str] = []

    def noted_train(config: Config) -> dict[str, float]:
        done.append("resumed" if config.training.resume else "trained")
        return train(config)

    def noted_evaluate(config: Config) -> dict[str, Any]:
        done.append("evaluated")
        return evaluate(config)

    monkeypatch.setattr(accuracy, "train", noted_train)
    monkeypatch.setattr(accuracy, "evaluate", noted_evaluate)

    def again(*more: str) -> dict[str, str]:
        """Runs the command again and returns the only row."""
        done.clear()
        run(accuracy.app, *words, *more)
        (row,) = environment.read_results("accuracy")
        return row

    first = again()
    assert done == ["trained", "evaluated"]
    assert again() == first  # its row exists
    assert not done

    results = environment.RESULTS / "accuracy.csv"
    results.unlink()
    (kept / "default-42/best_model.onnx").unlink()
    row = again()  # the model of another command
    assert done == ["evaluated"]
    assert (row["test_wrong"], row["model"], row["epochs"]) == (first["test_wrong"], first["model"], "2")
    assert (float(row["ms_per_image_onnx"]) > 0, row["peak_memory_mb"]) == (True, "")

    (kept / "default-42/best_model.pth").unlink()  # killed before it was published
    row = again()
    assert done == ["resumed", "evaluated"]
    assert row["epochs"] == "2"

    (kept / "default-42/run/config.json").write_text("")  # killed at its start
    (kept / "default-42/run/last.pth").unlink()
    (kept / "default-42/best_model.pth").unlink()
    again()
    assert done == ["resumed", "evaluated"]

    for kind in ("finished", "interrupted"):
        if kind == "interrupted":
            (kept / "default-42/best_model.pth").unlink()
        result = CliRunner().invoke(accuracy.app, [*words, "training.label_smoothing=0.2"])
        assert isinstance(result.exception, ConfigError)
        assert re.search(r"default-42 .*other settings: training\.label_smoothing\. .*--again", str(result.exception))
    again("--again")
    assert done == ["trained", "evaluated"]

    shutil.rmtree(kept)
    again()  # has a row, perhaps of another machine
    assert not done


@pytest.mark.slow
def test_time_to_accuracy(results: Path, overrides: list[str]) -> None:
    run(time_to_accuracy.app, "--trials", "1", "--baseline-epochs", "1", *overrides)
    rows = {row["recipe"]: row for row in environment.read_results("time_to_accuracy")}
    assert rows.keys() == {"default", "default, bf16", "baseline"}
    assert all(float(row["seconds_per_epoch"]) > 0 for row in rows.values())


@pytest.mark.slow
def test_own_data(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_data, "in_new_process", lambda work, *arguments: work(*arguments))
    folder = tmp_path / "parts = (1)"
    for class_id, name in enumerate(("bolt", "Größe 2")):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            make_image(class_id, number).save(folder / name / f"{number}.png")
    tiny = ["model.width=4", "data.image_size=24", "training.epochs=1", "training.size_schedule=[]", "device=cpu"]
    run(own_data.app, str(folder), "--seed", "7", *tiny)
    (own,) = environment.read_results("own_data")
    assert [own[column] for column in ("data", "seed", "classes", "train_images", "val_images", "test_images")] == [
        "parts = (1)", "7", "2", "12", "4", "4",
    ]  # fmt: skip
    assert own["svc_accuracy"] == "1.0"
    assert float(own["train_seconds"]) > 1


def test_the_images_of_own_data(tmp_path: Path) -> None:
    own_data.write_digits(tmp_path / "digits")
    own_data.write_shapes(tmp_path / "shapes", per_class=1)
    for name, classes, images, side in (("digits", 10, 1797, 8), ("shapes", 120, 120, 64)):
        files = list((tmp_path / name).rglob("*.png"))
        assert (len(files), len({file.parent for file in files})) == (images, classes)
        with Image.open(files[0]) as image:
            assert image.size == (side, side)
    own_data.write_shapes(tmp_path / "again", per_class=1)
    for file in (tmp_path / "shapes").rglob("*.png"):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(tmp_path / "shapes")).read_bytes()


def test_own_data_of_a_missing_folder() -> None:
    result = CliRunner().invoke(own_data.app, ["no/such/folder"])
    assert isinstance(result.exception, ConfigError)
    assert "'no/such/folder' is neither a folder nor one of digits, shapes" in str(result.exception)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_step(results: Path, device: str) -> None:
    small = ["model.width=4", "data.image_size=24", "training.size_schedule=[]", "training.batch_size=8"]
    run(step.app, "--rounds", "1", "--variant", "fp32", "--variant", "bf16", *small, f"device={device}")
    rows = environment.read_results("step")
    assert [(row["variant"], row["image_size"], row["device"]) for row in rows] == [
        ("fp32", "24", device), ("bf16", "24", device),
    ]  # fmt: skip
    assert all(float(row["ms_per_step"]) > 0 for row in rows)


@pytest.mark.parametrize("unit", ["image", "track"])
def test_label_errors(results: Path, overrides: list[str], tmp_path: Path, unit: str) -> None:
    overrides = [one for one in overrides if not one.startswith("training.epochs")]
    run(label_errors.app, "--unit", unit, "--seed", "1", *overrides, f"data.processed_dir={tmp_path / 'processed'}")
    rows = {row["ranking"]: row for row in environment.read_results("label_errors")}
    assert rows.keys() == {"probability of the label", "margin", "confident joint, probability"}
    row = rows["probability of the label"]
    assert (row["unit"], row["seed"], row["images"], row["wrong"]) == (unit, "1", "80", "2" if unit == "image" else "4")
    assert float(row["found_in_first_3"]) >= 0.5
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "processed", "results"}


def test_uploads(results: Path) -> None:
    run(uploads.app, "--rounds", "1")
    assert [int(row["microseconds"]) > 0 for row in environment.read_results("uploads")] == [True] * 4
