"""Training: the files that it writes, and its errors."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from src.mlops.config import Config
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.prepare import prepare
from src.mlops.errors import CheckpointError, ConfigError, DataError, TrainingError
from src.mlops.model import SignNet, build_model
from src.mlops.modelfile.checkpoint import load_checkpoint
from src.mlops.training.train import train
from src.mlops.training.train_loop import State
from tests.helpers.tiny import quick_config, tiny_overrides, write_kaggle

MakeConfig = Callable[..., Config]
KEYS = {
    "epoch", "seconds", "train_loss", "train_Accuracy",
    "val_loss", "val_Accuracy", "val_Precision", "val_Recall", "val_F1",
}  # fmt: skip


def test_writes_everything_and_returns_the_best_epoch(make_config: MakeConfig, tmp_path: Path) -> None:
    metrics = train(make_config("training.epochs=3"))
    assert set(metrics) == KEYS
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "best_model.pth", "last.pth", "metrics.csv", "config.json", "train.log", "figures", ".lock",
    }  # fmt: skip
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    best = max(rows, key=lambda row: (float(row["val_Accuracy"]), -float(row["val_loss"])))
    assert float(best["epoch"]) == metrics["epoch"] == load_checkpoint(tmp_path / "latest/best_model.pth").epoch
    assert (tmp_path / "run/figures/learning_curves.png").stat().st_size > 1000
    assert str(tmp_path / "latest/best_model.pth") in (tmp_path / "run/train.log").read_text()


def test_small_images_first(make_config: MakeConfig, tmp_path: Path) -> None:
    sides: list[int] = []

    def note(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if network.training and isinstance(network, SignNet):
            sides.append(inputs[0].shape[-1])

    hook = register_module_forward_pre_hook(note)
    try:
        train(make_config("data.image_size=32", "training.size_schedule=[[24,0.5]]"))
    finally:
        hook.remove()
    half = len(sides) // 2
    assert half > 0
    assert sides == [24] * half + [32] * half
    assert load_checkpoint(tmp_path / "latest/best_model.pth").image_size == 32


def test_a_folder_as_ckpt_path_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    for name in ("model.pth", "other.onnx"):
        (tmp_path / name).mkdir()
        with pytest.raises(ConfigError, match=rf"{re.escape(str(tmp_path / name))}.*folder.*ckpt_path"):
            train(make_config(f"ckpt_path={(tmp_path / name).with_suffix('.pth')}"))
    assert not (tmp_path / "run").exists()


def test_more_processes_than_images_in_a_batch_are_refused(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "32")
    with pytest.raises(ConfigError, match=r"training\.batch_size .*\b32\b.*\b16\b"):
        train(make_config())


def test_settings_with_little_effect_are_warned_about(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(make_config("training.epochs=1", "training.profile=true"))
    assert "training.profile=true writes nothing" in caplog.text
    assert not (tmp_path / "run" / "profile").exists()


def test_resume_without_a_run(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"resume.*run"):
        train(make_config("training.resume=true"))


def test_state_of_a_release_with_fewer_settings_is_resumed() -> None:
    config = quick_config(["model.width=4"])
    state = State(config, build_model(config.model, 43), steps_per_epoch=10, data_fingerprint="", classes=SIGNS)
    stored = state.to_dict()
    for key in ("outliers", "teachers"):
        del stored["config"]["training"][key]
    state.restore(stored)
    del stored["config"]["training"]["ema_decay"]
    with pytest.raises(ConfigError, match=r"changed since its start: training\.ema_decay\."):
        state.restore(stored)


def test_folders_that_cannot_be_written(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=rf"{re.escape(str(tmp_path / 'file' / 'run'))}.*Not a directory"):
        train(make_config(f"run_dir={tmp_path / 'file' / 'run'}"))
    with pytest.raises(ConfigError, match=rf"{re.escape(str(tmp_path / 'file'))}:.*File exists"):
        train(make_config(f"ckpt_path={tmp_path / 'file' / 'best_model.pth'}"))


@pytest.mark.parametrize(
    "place", ["src.mlops.training.tracking.CsvTracker.log", "src.mlops.modelfile.checkpoint.write_atomically"]
)
def test_full_disk_is_reported(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(place, full)
    with pytest.raises(
        TrainingError, match=rf"{re.escape(str(tmp_path))}.*No space left on device.*training\.resume=true"
    ):
        train(make_config("training.epochs=1"))


def test_a_failed_read_is_not_reported_as_a_failed_write(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=r"^No checkpoint at .*none\.pth"):
        train(make_config(f"training.start_from={tmp_path}/none.pth"))

    def unreadable(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    prepare(make_config().data)
    with monkeypatch.context() as patch:
        patch.setattr("numpy.load", unreadable)
        with pytest.raises(DataError, match=rf"^Cannot read .*{re.escape(str(tmp_path / 'processed'))}.*Input/output"):
            train(make_config("training.epochs=1"))
    monkeypatch.setattr("src.mlops.data.dataset.Batches.epoch", unreadable)
    with pytest.raises(OSError, match="Input/output error"):
        train(make_config("training.epochs=1", f"run_dir={tmp_path / 'other'}"))


def test_an_error_of_the_callback_is_not_changed(make_config: MakeConfig) -> None:
    def fail(_: object) -> None:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match=r"^gone$"):
        train(make_config("training.epochs=1"), on_epoch=fail)


def test_the_lock_of_a_run_stays_the_same_file(make_config: MakeConfig, tmp_path: Path) -> None:
    lock = tmp_path / "run" / ".lock"
    inodes: list[int] = []
    train(make_config("training.epochs=1"), on_epoch=lambda _: inodes.append(lock.stat().st_ino))
    # Otherwise a process that opened the lock during the training would lock a deleted file, and not exclude others.
    assert inodes == [lock.stat().st_ino]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.width=0", r"\bwidth\b.*\b0\b"),
        ("model.dropout=1.0", r"model\.dropout must be below 1"),
        ("training.size_schedule=[[32,0.5]]", r"training\.size_schedule has 32 px.*data\.image_size=24"),
        ("training.optimizer._target_=torch.optim.Muon", r"training\.optimizer.*Muon.*2D"),
        ("training.frozen_epochs=1", r"training\.frozen_epochs must be 0.*random.*\b1\b"),
        ("device=cuda:77", r"'cuda:77'"),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_written(
    make_config: MakeConfig, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(make_config(override))
    assert not (tmp_path / "processed").exists()
    assert not (tmp_path / "run").exists()


def test_a_left_out_class_is_not_trained_on_as_a_mirror_image(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    original = torch.nn.functional.cross_entropy

    def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, **options: float) -> torch.Tensor:
        seen.update(labels.tolist())
        return original(logits, labels, **options)

    monkeypatch.setattr("torch.nn.functional.cross_entropy", cross_entropy)
    raw = write_kaggle(tmp_path / "signs", classes=35, tracks=2, frames=1, test_images=1)
    train(make_config(f"data.raw_dir={raw}", "training.epochs=1", "training.leave_out=[19,34]"))
    assert seen == set(range(35)) - {19, 34}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.leave_out=[3,50]", r"training\.leave_out.*\b50\b.*0 to 42"),
    ],
)
def test_settings_that_do_not_fit_the_classes_are_refused_before_the_run_starts(
    make_config: MakeConfig, override: str, message: str
) -> None:
    config = make_config(override)
    with pytest.raises(ConfigError, match=message):
        train(config)
    assert config.run_dir
    assert not config.run_dir.exists()


def test_no_class_with_two_tracks_leaves_nothing_to_validate(tmp_path: Path) -> None:
    raw = write_kaggle(tmp_path / "raw", tracks=1)
    with pytest.raises(DataError, match=r"'train': \d+.*needs 2 groups"):
        train(quick_config(tiny_overrides(tmp_path, raw)))
