"""Errors of commands in separate processes: one line and an exit code."""

import subprocess
import sys

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
