"""Trainings that log to TensorBoard, and to W&B offline."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from src.mlops.config import Config
from src.mlops.errors import ConfigError
from src.mlops.training.tracking import start_tracking
from src.mlops.training.train import train
from tests.helpers.storage_emulator import free_port


@pytest.fixture
def _no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points W&B to a port without a server."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    for name in ("WANDB_HTTP_TIMEOUT", "WANDB_INIT_TIMEOUT"):
        monkeypatch.setenv(name, "1")


def require_offline_run(run_dir: Path) -> None:
    """Checks that there is one offline run, and that `wandb sync` would upload it."""
    [folder] = (run_dir / "wandb").glob("offline-run-*")
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=True)
    assert "Would sync 1 run" in result.stdout + result.stderr
    assert len((run_dir / "metrics.csv").read_text().splitlines()) == 2


class TestWandb:
    def test_wandb_offline_without_account_and_network(
        self, make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        train(make_config("tracking=wandb"))
        assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
        assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3

    @pytest.mark.usefixtures("_no_server")
    @pytest.mark.parametrize(
        "environment",
        [
            {"WANDB_API_KEY": "a" * 40},
            {"WANDB_API_KEY": "a" * 40, "WANDB_MODE": "online"},
            {"WANDB_MODE": "online"},
            {"WANDB_API_KEY": "none"},
        ],
        ids=["key", "key and online", "online", "invalid key"],
    )
    def test_logs_offline_if_the_login_fails(
        self,
        make_config: Callable[..., Config],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        environment: dict[str, str],
    ) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        tracker = start_tracking(tmp_path, make_config("tracking=wandb"), [])
        tracker.log({"epoch": 1.0, "val_loss": 0.5})
        tracker.finish()
        require_offline_run(tmp_path)

    @pytest.mark.usefixtures("_no_server")
    def test_logs_offline_if_the_network_fails_after_the_login(
        self,
        make_config: Callable[..., Config],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setattr("wandb.login", lambda **_: True)
        tracker = start_tracking(tmp_path, make_config("tracking=wandb"), [])
        tracker.log({"epoch": 1.0, "val_loss": 0.5})
        tracker.finish()
        require_offline_run(tmp_path)
        assert "Logging offline" in caplog.text

    @pytest.mark.slow
    def test_a_resumed_run_continues_the_wandb_run(
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

    def test_metrics_go_to_the_csv_file_if_wandb_does_not_start(
        self, make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_MODE", "bogus")
        train(make_config("tracking=wandb", "training.epochs=1"))
        assert (tmp_path / "run" / "metrics.csv").is_file()


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None,
    reason="the group tensorboard is not installed: uv sync --group tensorboard",
)
class TestTensorBoard:
    def test_an_interrupted_and_resumed_run_logs_each_epoch_once(
        self, make_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        def interrupt(_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(make_config("tracking=tensorboard"), on_epoch=interrupt)
        train(make_config("tracking=tensorboard", "training.resume=true"))
        events = EventAccumulator(str(tmp_path / "run")).Reload()
        header, *lines = (tmp_path / "run/metrics.csv").read_text().splitlines()
        assert {*events.Tags()["scalars"], "epoch"} == set(header.split(","))
        for column, name in enumerate(header.split(",")):
            if name != "epoch":
                logged = [(point.step, point.value) for point in events.Scalars(name)]
                assert logged == [
                    (number, pytest.approx(float(line.split(",")[column]))) for number, line in enumerate(lines, 1)
                ]
        [figure] = events.Images("learning_curves")
        assert figure.width > 100
        assert "config/text_summary" in events.Tags()["tensors"]


def test_without_tensorboard_the_training_does_not_start(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r"TensorBoard.*uv sync --group tensorboard"):
        train(make_config("tracking=tensorboard"))
    assert not (tmp_path / "processed").exists()
