"""What the configuration accepts and refuses."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.mlops import ROOT
from src.mlops.config import CONFIG_DIR, load_config
from src.mlops.errors import ConfigError
from src.mlops.inference import LATEST_FILES


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lerning_rate=1", "training.lerning_rate"),
        ("+training.lerning_rate=1", "training.lerning_rate: there is no such key"),
        ("training.batch_size=0", "training.batch_size.*found 0"),
        ("training.epochs=many", "training.epochs.*found 'many'"),
        ("data.split.test_size=1.0", "data.split.test_size"),
        ("data.split.test_size=nan", "data.split.test_size"),
        ("model=resnet_1000", "Could not find 'model/resnet_1000'"),
        ("device=tpu", "device"),
        ("training.epochs=${nowhere}", "nowhere"),
        ("seed=-1", "seed"),
        ("run_dir=''", "run_dir: .*expected a path"),
        ("training.optimizer.lr=abc", "lr is a number above 0, not 'abc'"),
        ("training.optimizer.lr=0", "lr is a number above 0, not 0"),
    ],
)
def test_bad_overrides_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([override])


def test_relative_paths_start_at_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(["data.raw_dir=some/where"])
    assert config.data.raw_dir == ROOT / "some/where"
    assert config.to_dict()["data"]["raw_dir"] == "some/where"


def test_every_key_has_a_comment() -> None:
    for path in CONFIG_DIR.rglob("*.yaml"):
        if path.parent.name != "experiment":  # experiments set keys that are explained where their default stands
            keys = [line for line in path.read_text().splitlines() if ": " in line and "_target_" not in line]
            assert [line for line in keys if "#" not in line] == []


@pytest.mark.parametrize("experiment", [path.stem for path in (CONFIG_DIR / "experiment").glob("*.yaml")])
def test_experiments_compose(experiment: str) -> None:
    load_config([f"experiment={experiment}"])


def run_module(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"src.mlops.{module}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["training.foo=1"], "error: Could not override 'training.foo'"),
        (["data.raw_dir=no/such/folder"], "error: expected a folder of images at data.raw_dir="),
    ],
)
def test_command_line_ends_with_one_line_and_exit_code_1(arguments: list[str], message: str) -> None:
    result = run_module("data.prepare", *arguments)
    assert result.returncode == 1
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_broken_yaml_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(CONFIG_DIR, tmp_path / "configshydra")
    (tmp_path / "configshydra/training/default.yaml").write_text("epochs: [1\n")
    monkeypatch.setattr("src.mlops.config.CONFIG_DIR", tmp_path / "configshydra")
    with pytest.raises(ConfigError, match=r"while parsing a flow sequence.*default\.yaml"):
        load_config()


def test_the_service_finds_what_training_leaves() -> None:
    assert load_config().ckpt_path == ROOT / LATEST_FILES[1]


def test_debug_shows_the_traceback() -> None:
    result = run_module("data.prepare", "data.raw_dir=no/such/folder", "--debug")
    assert "Traceback" in result.stderr
    assert result.returncode == 1
