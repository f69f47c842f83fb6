"""Complete trainings."""

import csv
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from torch.optim.optimizer import register_optimizer_step_pre_hook

from src.mlops import ROOT
from src.mlops.config import Config
from src.mlops.data.prepare import prepare
from src.mlops.errors import CheckpointError, ConfigError, TrainingError
from src.mlops.evaluation.evaluate import evaluate
from src.mlops.modelfile.checkpoint import load_checkpoint, read_plain, write_content
from src.mlops.training.tracking import CsvTracker
from src.mlops.training.train import train
from tests.helpers.tiny import quick_config, tiny_overrides

MakeConfig = Callable[..., Config]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(read_plain(path)["state_dict"])


def measured(path: Path) -> list[dict[str, str]]:
    """Reads the metrics of each epoch, without its duration."""
    with path.open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_learns(make_config: MakeConfig) -> None:
    assert train(make_config("training.epochs=12"))["val_Accuracy"] > 0.9


def test_same_seed_gives_bit_identical_weights(make_config: MakeConfig, tmp_path: Path) -> None:
    results = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        train(make_config(f"seed={seed}", f"run_dir={tmp_path / name}"))
        results.append(weights(tmp_path / name / "best_model.pth"))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


@pytest.mark.parametrize("model", ["signnet", "tiny_cnn"])
@pytest.mark.parametrize("schedule", ["onecycle", "constant"])
def test_models_and_schedules_train(tmp_path: Path, raw_dir: Path, model: str, schedule: str) -> None:
    overrides = [one for one in tiny_overrides(tmp_path, raw_dir) if not one.startswith("model.")]
    config = quick_config([f"model={model}", f"training.schedule={schedule}", *overrides, "training.epochs=3"])
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    try:
        train(config)
    finally:
        hook.remove()
    highest = config.training.optimizer["lr"]
    if schedule == "constant":
        assert set(rates) == {highest}
    else:
        top = rates.index(max(rates))
        assert rates[top] == pytest.approx(highest, rel=0.05)
        assert rates == sorted(rates[: top + 1]) + sorted(rates[top + 1 :], reverse=True)
    losses = [float(row["train_loss"]) for row in measured(tmp_path / "run/metrics.csv")]
    assert min(losses[1:]) < losses[0]
    assert read_plain(tmp_path / "run/best_model.pth")["config"]["model"]["_target_"] == config.model["_target_"]


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("training.epochs=1", f"run_dir={tmp_path / 'first'}"))
    published = (tmp_path / "latest/best_model.pth").read_bytes()
    with pytest.raises(TrainingError, match=r"loss.*\bnan\b.*training\.optimizer\.lr"):
        train(make_config("training.epochs=3", "training.optimizer.lr=1e30", "training.schedule=constant"))
    assert (tmp_path / "latest/best_model.pth").read_bytes() == published
    for path in (tmp_path / "run").glob("*.pth"):
        assert all(tensor.isfinite().all() for tensor in weights(path).values())


def test_early_stopping(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("training.epochs=30", "training.early_stopping=2", "training.optimizer.lr=1e-12"))
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()
    assert len(rows) - 1 < 30
    assert " 2 epochs" in (tmp_path / "run/train.log").read_text()


def test_early_stopping_waits_for_images_of_full_size(make_config: MakeConfig, tmp_path: Path) -> None:
    sizes = ["data.image_size=32", "training.size_schedule=[[24, 0.5]]"]
    train(make_config(*sizes, "training.epochs=8", "training.early_stopping=1", "training.optimizer.lr=1e-12"))
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()
    assert len(rows) - 1 == 5  # four epochs with small images, and one


def test_ctrl_c_keeps_the_checkpoint_and_the_run_can_be_resumed(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(make_config("training.epochs=4", f"run_dir={tmp_path / 'whole'}"))
    published = (tmp_path / "latest/best_model.pth").read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("src.mlops.training.tracking.CsvTracker.log", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(make_config("training.epochs=4"))
    assert load_checkpoint(tmp_path / "run/best_model.pth").epoch == 1
    assert (tmp_path / "latest/best_model.pth").read_bytes() == published

    train(make_config("training.epochs=4", "training.resume=true"))
    assert same(weights(tmp_path / "run/best_model.pth"), weights(tmp_path / "whole/best_model.pth"))
    assert measured(tmp_path / "run/metrics.csv") == measured(tmp_path / "whole/metrics.csv")


def test_synthetic_images_in_addition_to_the_real_ones(make_config: MakeConfig, tmp_path: Path) -> None:
    drawn = "training.drawn={tracks_per_class:2,frames_per_track:1,test_tracks_per_class:1,seed:0}"
    train(make_config("training.epochs=1", drawn))
    real = len(prepare(make_config().data).load("train").rows)
    described = f" {real + 43 * 3} images of 43 classes in batches of 16, validating on 16"
    assert described in (tmp_path / "run/train.log").read_text()
    # The data set contains no synthetic images, so the model is still evaluated on real signs only.
    assert load_checkpoint(tmp_path / "latest/best_model.pth").provenance["data_fingerprint"] == (
        prepare(make_config().data).fingerprint
    )


class TestFinalFit:
    def test_trains_on_all_images_and_keeps_the_validated_metrics(
        self, make_config: MakeConfig, tmp_path: Path
    ) -> None:
        metrics = train(make_config("training.final_fit=true"))
        validated, final = load_checkpoint(tmp_path / "run/best_model.pth"), tmp_path / "latest/best_model.pth"
        published = load_checkpoint(final)
        assert published.metrics == validated.metrics == metrics
        assert published.calibration == validated.calibration
        assert not same(weights(final), weights(tmp_path / "run/best_model.pth"))
        log = (tmp_path / "run/train.log").read_text()
        pack = prepare(make_config().data)
        images = len(pack.load("train").rows) + len(pack.load("val").rows)
        assert f"all {images} images" in log
        assert "val" not in (tmp_path / "run/final_fit/metrics.csv").read_text()

    def test_resumes_after_an_interruption(
        self, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        train(make_config("training.final_fit=true", f"run_dir={tmp_path / 'whole'}"))
        published = weights(tmp_path / "latest/best_model.pth")
        (tmp_path / "latest/best_model.pth").unlink()
        original = CsvTracker.log

        def interrupt(self: CsvTracker, row: dict[str, float]) -> None:
            original(self, row)
            if "val_loss" not in row:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(CsvTracker, "log", interrupt)
            with pytest.raises(KeyboardInterrupt):
                train(make_config("training.final_fit=true"))
        assert not (tmp_path / "latest/best_model.pth").exists()
        train(make_config("training.final_fit=true", "training.resume=true"))
        assert same(weights(tmp_path / "latest/best_model.pth"), published)
        assert "seconds" in (tmp_path / "run/final_fit/metrics.csv").read_text()

    def test_evaluating_it_on_validation_images_logs_a_warning(
        self, make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        train(make_config("training.final_fit=true", "training.epochs=1"))
        evaluate(make_config("evaluation.split=val", f"ckpt_path={tmp_path / 'run/best_model.pth'}"))
        assert "trained on images of this val split" not in caplog.text
        evaluate(make_config("evaluation.split=val"))
        assert "trained on images of this val split" in caplog.text

    def test_is_added_to_a_finished_run(self, make_config: MakeConfig, tmp_path: Path) -> None:
        train(make_config("training.final_fit=true", f"run_dir={tmp_path / 'at_once'}"))
        published = weights(tmp_path / "latest/best_model.pth")
        train(make_config())
        train(make_config("training.resume=true", "training.final_fit=true"))
        assert same(weights(tmp_path / "latest/best_model.pth"), published)


def test_resume_refuses_other_data(make_config: MakeConfig) -> None:
    train(make_config("training.epochs=1"))
    with pytest.raises(ConfigError, match=r"\bthe data\b"):
        train(make_config("training.epochs=1", "training.resume=true", "data.split.seed=9"))


def test_profile_writes_a_table_and_a_trace(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("training.epochs=1", "training.batch_size=2", "training.profile=true"))
    assert "conv" in (tmp_path / "run/profile/table.txt").read_text()
    assert (tmp_path / "run/profile/trace.json").stat().st_size > 1000


def test_the_log_of_short_epochs_has_no_progress_lines(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    train(make_config())
    assert " px" not in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns(make_config: MakeConfig, precision: str) -> None:
    assert train(make_config("training.epochs=12", f"training.precision={precision}"))["val_Accuracy"] > 0.9


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_on_the_command_line(tmp_path: Path, raw_dir: Path) -> None:
    overrides = [*tiny_overrides(tmp_path, raw_dir), "training.epochs=100000"]
    command = [sys.executable, "-m", "src.mlops.train", *overrides]
    lines = []
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            lines.append(line)
            if line.lower().startswith("epoch 1/") and "val accuracy" in line:
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert "Traceback" not in "".join(lines)
    assert "training.resume=true" in lines[-2]
    assert lines[-1].lower() == "stopped by ctrl-c\n"
    assert load_checkpoint(tmp_path / "run/best_model.pth").epoch >= 1
    assert "epoch 1/100000" in (tmp_path / "run/train.log").read_text().lower()


def test_a_failure_of_wandb_does_not_stop_a_training(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Run:
        settings = SimpleNamespace(mode="online")

        def log(self, *_: object, **__: object) -> None:
            raise ConnectionError("gone")

        finish = log

    monkeypatch.setattr("src.mlops.training.tracking.WandbTracker._start", lambda *_: Run())
    monkeypatch.setenv("WANDB_MODE", "online")
    config = make_config("tracking=wandb")
    train(config)
    [warning] = [record.getMessage() for record in caplog.records if "W&B" in record.getMessage()]
    assert "gone" in warning
    assert "metrics.csv" in warning
    assert config.run_dir is not None
    assert len((config.run_dir / "metrics.csv").read_text().splitlines()) == 3


def test_a_run_folder_is_not_overwritten(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("training.epochs=1"))
    before = (tmp_path / "run/best_model.pth").read_bytes()
    with pytest.raises(ConfigError, match=r"run_dir.*run .*training\.resume=true"):
        train(make_config("training.epochs=1"))
    assert (tmp_path / "run/best_model.pth").read_bytes() == before


def test_a_state_of_another_version_is_not_resumed(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("training.epochs=1"))
    write_content(tmp_path / "run/last.pth", read_plain(tmp_path / "run/last.pth") | {"format_version": 0})
    with pytest.raises(ConfigError, match=r"resume.*version"):
        train(make_config("training.epochs=1", "training.resume=true"))


@pytest.mark.parametrize("options", ["foreach: true", "fused: false", "amsgrad: true"])
def test_optimizer_options(make_config: MakeConfig, options: str) -> None:
    name, value = options.split(": ")
    train(make_config("training.epochs=1", f"+training.optimizer.{name}={value}"))


def test_corrupted_or_foreign_state_is_not_resumed(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("training.epochs=1"))
    write_content(tmp_path / "run/last.pth", {"config": {}})
    with pytest.raises(CheckpointError, match=r"last\.pth"):
        train(make_config("training.epochs=1", "training.resume=true"))


def test_resume_refuses_other_settings(make_config: MakeConfig) -> None:
    train(make_config("training.epochs=1"))
    with pytest.raises(ConfigError, match=r"resume.*training\.batch_size"):
        train(make_config("training.epochs=1", "training.resume=true", "training.batch_size=8"))


class TestMoreEpochs:
    def test_a_finished_run_continues_like_a_longer_one(self, make_config: MakeConfig, tmp_path: Path) -> None:
        own = ["training.schedule=constant", "training.final_fit=true", "training.early_stopping=0"]
        train(make_config(*own, "training.epochs=4", f"run_dir={tmp_path / 'whole'}"))
        published = weights(tmp_path / "latest/best_model.pth")
        train(make_config(*own, "training.epochs=2"))
        train(make_config(*own, "training.epochs=4", "training.resume=true"))
        assert same(weights(tmp_path / "latest/best_model.pth"), published)
        assert measured(tmp_path / "run/metrics.csv") == measured(tmp_path / "whole/metrics.csv")

    @pytest.mark.parametrize(
        ("schedule", "sizes", "epochs"),
        [("onecycle", "[]", 3), ("constant", "[[24,0.5]]", 4), ("constant", "[]", 1)],
    )
    def test_other_schedules_give_a_hint(self, make_config: MakeConfig, schedule: str, sizes: str, epochs: int) -> None:
        own = ["data.image_size=32", f"training.schedule={schedule}", f"training.size_schedule={sizes}"]
        train(make_config(*own))
        message = rf"training\.epochs={epochs}\b.*2 finished epochs.*training\.start_from"
        with pytest.raises(ConfigError, match=message):
            train(make_config(*own, f"training.epochs={epochs}", "training.resume=true"))

    def test_early_stopping_can_be_switched_off(self, make_config: MakeConfig, tmp_path: Path) -> None:
        own = ["training.schedule=constant", "training.epochs=6", "training.optimizer.lr=1e-12"]
        train(make_config(*own, "training.early_stopping=1"))
        assert len(measured(tmp_path / "run/metrics.csv")) < 6
        train(make_config(*own, "training.early_stopping=0", "training.resume=true"))
        assert len(measured(tmp_path / "run/metrics.csv")) == 6


def test_a_run_in_progress_is_not_resumed_by_another_process(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    train(make_config("training.epochs=1"))
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(ConfigError, match=r"run .*in use.*run_dir"):
        train(make_config("training.epochs=1", "training.resume=true"))
