"""Errors of commands in separate processes: one line and an exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

from src.mlops import ROOT


def run_module(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"src.mlops.{module}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["training.foo=1"], "error: Could not override 'training.foo'"),
        (["data.raw_dir=no/such/folder"], f"error: data.raw_dir={ROOT}/no/such/folder "),
    ],
)
def test_command_line_ends_with_one_line_and_exit_code_1(arguments: list[str], message: str) -> None:
    result = run_module("data.prepare", *arguments)
    assert result.returncode == 1
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_debug_shows_the_traceback() -> None:
    result = run_module("data.prepare", "data.raw_dir=no/such/folder", "--debug")
    assert "Traceback" in result.stderr
    assert result.returncode == 1


HELP = ("api", "drift_api", "predict", "pipeline", "train_job")
SCRIPTS = (*HELP, "train", "evaluate", "export", "sweep", "quickstart")


def test_every_script_is_tested() -> None:
    found = {path.stem for path in (ROOT / "src/mlops").glob("*.py") if "__main__" in path.read_text()}
    assert found - {"__main__"} == set(SCRIPTS)


@pytest.mark.parametrize("name", ["api", *(pytest.param(name, marks=pytest.mark.slow) for name in SCRIPTS[1:])])
def test_scripts_run_in_any_working_directory(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "src/mlops" / f"{name}.py"), "--help" if name in HELP else "seed=none"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=120)
    if name in HELP:
        assert f"{name}.py [OPTIONS]" in result.stdout
    else:
        assert result.stderr.startswith("error: seed: ")
