"""A run that is killed with SIGKILL and resumed has the same final weights as an uninterrupted run."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.mlops import ROOT
from src.mlops.modelfile.checkpoint import read_plain
from tests.helpers.tiny import tiny_overrides

# Trains in a process that kills itself when a function is called for the n-th time.
DRIVER = """
import os, signal, sys
import torch
from src.mlops.config import load_config
from src.mlops.training.train import train

place, count = sys.argv[1], int(sys.argv[2])
module, name = {"write": (os, "fsync"), "rename": (os, "replace"), "step": (torch.optim.AdamW, "step")}[place]
original = getattr(module, name)
calls = 0

def counted(*arguments, **options):
    global calls
    calls += 1
    if calls == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)

setattr(module, name, counted)
train(load_config(sys.argv[3:]))
"""
# The runs are killed while a checkpoint is written, just before it is renamed, and at random steps of the training (20
# steps) and of the final fit (25 steps). Each run resumes the one before.
RANDOM = random.Random(2026)
STEPS = [("step", RANDOM.randint(1, 9)) for _ in range(5)]
POINTS = [STEPS[0], ("write", 2), STEPS[1], ("rename", 1), STEPS[2], ("write", 1), STEPS[3], ("rename", 3), STEPS[4]]


def run(folder: Path, raw_dir: Path, place: str, count: int, *overrides: str) -> int:
    own = [*tiny_overrides(folder, raw_dir), f"data.processed_dir={raw_dir.parent / 'processed'}"]
    own += ["training.epochs=5", "training.final_fit=true"]
    command = [sys.executable, "-c", DRIVER, place, str(count), *own, *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=False).returncode


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_and_resumed_run_ends_with_identical_weights(tmp_path: Path, raw_dir: Path) -> None:
    assert run(tmp_path / "whole", raw_dir, "step", 0) == 0
    killed = tmp_path / "killed"
    for place, count in POINTS:
        resume = (killed / "run").is_dir()
        assert run(killed, raw_dir, place, count, f"training.resume={str(resume).lower()}") == -signal.SIGKILL
    assert run(killed, raw_dir, "step", 0, "training.resume=true") == 0
    for name in ("run/best_model.pth", "latest/best_model.pth"):
        first, second = (read_plain(folder / name)["state_dict"] for folder in (tmp_path / "whole", killed))
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert not list((killed / "run").rglob(".*-*"))
