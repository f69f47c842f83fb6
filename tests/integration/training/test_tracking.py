"""Trainings that log to W&B offline."""

from collections.abc import Callable
from pathlib import Path

import pytest

from src.mlops.config import Config
from src.mlops.training.train import train


class TestWandb:
    def test_wandb_offline_without_account_and_network(
        self, make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        train(make_config("tracking=wandb"))
        assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
        assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3

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
