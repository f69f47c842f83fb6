"""The local hyperparameter search, and the command line that W&B agents run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from src.mlops import ROOT
from src.mlops.config import Config
from src.mlops.errors import ConfigError
from src.mlops.training.sweep import sweep
from tests.helpers.tiny import tiny_overrides

SPACE = (
    "hparams_search.space=[{key:training.optimizer.lr,low:0.0005,high:0.02,log:true},"
    "{key:training.batch_size,choices:[8,16]}]"
)


def test_reports_all_trials_and_can_be_continued(make_config: Callable[..., Config], tmp_path: Path) -> None:
    make = lambda trials: make_config("training.epochs=2", SPACE, f"hparams_search.trials={trials}")  # noqa: E731
    first = sweep(make(2), tmp_path / "sweep")
    assert list(first["number"].sort_values()) == [0, 1]
    table = sweep(make(5), tmp_path / "sweep")
    assert sorted(table["number"]) == [0, 1, 2, 3, 4]
    assert list(table["val_Accuracy"]) == sorted(table["val_Accuracy"], reverse=True)
    assert table["training.optimizer.lr"].between(0.0005, 0.02).all()
    assert set(table["training.batch_size"]) <= {8, 16}
    assert table["training.optimizer.lr"].is_unique  # a continued search tries new values
    written = pd.read_csv(tmp_path / "reports/sweep/trials.csv")
    assert list(written["number"]) == list(table["number"])
    # Each trial has its own folder, and none has replaced the current model.
    assert len(list((tmp_path / "sweep").glob("trial_*/best_model.pth"))) == 5
    assert not (tmp_path / "latest/best_model.pth").exists()


def test_diverging_trials_do_not_stop_the_search(make_config: Callable[..., Config], tmp_path: Path) -> None:
    space = "hparams_search.space=[{key:training.optimizer.lr,choices:[1e30]}]"
    config = make_config("training.epochs=1", "training.schedule=constant", space, "hparams_search.trials=2")
    table = sweep(config, tmp_path / "sweep")
    assert list(table["state"]) == ["FAIL", "FAIL"]


def test_integers_stay_integers(make_config: Callable[..., Config], tmp_path: Path) -> None:
    space = "hparams_search.space=[{key:model.width,low:4,high:8}]"
    threads = torch.get_num_threads()
    chosen = (os.cpu_count() or 1) + 1
    torch.set_num_threads(chosen)
    try:
        table = sweep(make_config("training.epochs=1", space, "hparams_search.trials=2"), tmp_path / "sweep")
        assert torch.get_num_threads() == chosen  # a search in this process does not change it
    finally:
        torch.set_num_threads(threads)
    assert set(table["model.width"]) <= {4, 5, 6, 7, 8}


def test_trials_of_another_configuration_are_not_mixed_in(make_config: Callable[..., Config], tmp_path: Path) -> None:
    sweep(make_config("training.epochs=1", SPACE, "hparams_search.trials=1"), tmp_path / "sweep")
    with pytest.raises(ConfigError, match=r"configuration.*hparams_search\.name"):
        sweep(make_config("training.epochs=2", SPACE, "hparams_search.trials=2"), tmp_path / "sweep")


def test_unknown_key(make_config: Callable[..., Config], tmp_path: Path) -> None:
    space = "hparams_search.space=[{key:training.speed,low:0,high:1}]"
    with pytest.raises(ConfigError, match=r"training\.speed"):
        sweep(make_config(space), tmp_path / "sweep")


@pytest.mark.parametrize(
    "one",
    [
        "{key:seed}",
        "{key:seed,low:2,high:1}",
        "{key:seed,low:1,high:1}",
        "{key:seed,low:0}",
        "{key:seed,low:0,high:1,choices:[1]}",
        "{key:seed,low:0,choices:[1]}",
        "{key:seed,choices:[]}",
        "{key:seed,choices:[1,2,1]}",
        "{key:seed,low:0,high:9,log:true}",
        "{key:seed,low:-1,high:9,log:true}",
        "{key:seed,choices:[1,2],log:true}",
    ],
)
def test_invalid_ranges_are_refused(make_config: Callable[..., Config], one: str) -> None:
    with pytest.raises(ConfigError, match=r"space\.0: seed .*choices"):
        make_config(f"hparams_search.space=[{one}]")


@pytest.mark.parametrize("one", ["{key:seed,low:0,high:inf}", "{key:seed,choices:[1.0,nan]}"])
def test_ranges_that_are_not_finite_are_refused(make_config: Callable[..., Config], one: str) -> None:
    with pytest.raises(ConfigError, match=r"space\.0\..*finite"):
        make_config(f"hparams_search.space=[{one}]")


@pytest.mark.parametrize(
    ("one", "message"),
    [
        ("{key:training.batch_size,low:2.1,high:2.9}", r"training\.batch_size: .*\b2\.1\b"),
        ("{key:training.batch_size,low:0,high:9}", r"training\.batch_size: .*\b0\b"),
        ("{key:training.batch_size,choices:[8,many]}", r"training\.batch_size: .*'many'"),
        ("{key:training.schedule,low:0,high:9}", r"training\.schedule must be .*number.*'onecycle'.*choices"),
        ("{key:training.compile,low:0,high:1}", r"training\.compile must be .*number.*False.*choices"),
        ("{key:training.drawn.seed,low:0,high:1}", r"training\.drawn\.seed"),
        ("{key:training.optimizer,choices:[1]}", r"training\.optimizer: "),
        ("{key:training.publish,choices:[true]}", r"training\.publish cannot be searched"),
    ],
)
def test_values_that_no_trial_can_use_are_refused_before_the_search(
    make_config: Callable[..., Config], tmp_path: Path, one: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep(make_config(f"hparams_search.space=[{one}]"), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_single_choice_is_a_fixed_value(make_config: Callable[..., Config], tmp_path: Path) -> None:
    space = "hparams_search.space=[{key:training.batch_size,choices:[8]}]"
    table = sweep(make_config("training.epochs=1", space, "hparams_search.trials=2"), tmp_path / "sweep")
    assert list(table["training.batch_size"]) == [8, 8]


def test_fractions_are_searched_also_if_the_current_value_is_zero(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    space = "hparams_search.space=[{key:model.dropout,low:0,high:0.5}]"
    own = ["training.epochs=1", "model.dropout=0", space, "hparams_search.trials=1"]
    table = sweep(make_config(*own), tmp_path / "sweep")
    assert 0 < table["model.dropout"].item() < 0.5


def test_yes_and_no_are_searched_as_such(make_config: Callable[..., Config], tmp_path: Path) -> None:
    space = "hparams_search.space=[{key:training.augmentation.mirror,choices:[true,false]}]"
    table = sweep(make_config("training.epochs=1", space, "hparams_search.trials=2"), tmp_path / "sweep")
    assert set(map(type, table["training.augmentation.mirror"].tolist())) == {bool}


def test_the_largest_seed(make_config: Callable[..., Config], tmp_path: Path) -> None:
    config = make_config("training.epochs=1", SPACE, "hparams_search.trials=1", f"seed={2**32 - 1}")
    assert len(sweep(config, tmp_path / "sweep")) == 1
    assert len(sweep(config.replace({"hparams_search.trials": 2}), tmp_path / "sweep")) == 2


@pytest.mark.slow
def test_two_workers_share_a_study(make_config: Callable[..., Config], tmp_path: Path) -> None:
    config = make_config("training.epochs=1", SPACE, "hparams_search.trials=4", "hparams_search.workers=2")
    table = sweep(config, tmp_path / "sweep")
    assert len(table) >= 4
    assert table["number"].is_unique


@pytest.mark.slow
def test_the_command_line_of_a_wandb_agent(tmp_path: Path, raw_dir: Path) -> None:
    config = yaml.safe_load((ROOT / "sweep.yaml").read_text())
    values = {key: one.get("min", one.get("values", [None])[0]) for key, one in config["parameters"].items()}
    arguments = [f"{key}={value}" for key, value in values.items()]
    command: list[str] = []
    for part in config["command"]:
        command += {"${env}": ["env"], "python": [sys.executable], "${args_no_hyphens}": arguments}.get(part, [part])
    # Without the batch size, which the agent sets.
    command += [word for word in tiny_overrides(tmp_path, raw_dir) if not word.startswith("training.batch_size")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    lines = (tmp_path / "run/metrics.csv").read_text().splitlines()
    assert config["metric"]["name"] in lines[0].split(",")
    used = json.loads((tmp_path / "run/config.json").read_text())
    assert used["training"]["batch_size"] == values["training.batch_size"]
    assert used["training"]["optimizer"]["lr"] == values["training.optimizer.lr"]
    assert used["model"]["dropout"] == values["model.dropout"]
    assert list((tmp_path / "run/wandb").glob("offline-run-*"))
    assert not (tmp_path / "latest/best_model.pth").exists()
