"""Runs the whole loop with few images: until the second model serves, and until the gate refuses it."""

import subprocess
import sys
from pathlib import Path

import pytest

from src.mlops import ROOT
from src.mlops.io.git import git

LAX = ["gate.min_class_f1=0", "gate.max_calibration_error=1", "gate.min_robustness=0", "gate.max_latency_ms=1000"]
FEW = ["data.synthetic.tracks_per_class=8", "data.synthetic.test_tracks_per_class=2"]
COMMAND = [sys.executable, "-m", "src.mlops.demo.loop", "--labels", "300"]


def start(*arguments: str, overrides: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    given = [word for override in (*LAX, *FEW, *overrides) for word in ("-o", override)]
    command = [*COMMAND, *given, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def state() -> tuple[str, str]:
    return git(ROOT, "tag"), git(ROOT, "status", "--porcelain")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_better_model_replaces_the_first_one(tmp_path: Path) -> None:
    before = state()
    with start() as killed:
        assert killed.stdout
        for line in killed.stdout:
            if "Measuring it" in line:
                break
        killed.kill()
    # It starts over. An improvement is rarely significant with about fifty collected test images.
    with start("--out", str(tmp_path), overrides=("gate.significance=0.5",)) as loop:
        printed, _ = loop.communicate()
    assert not loop.returncode, printed
    assert state() == before
    rows = {
        line.split("|")[1].strip(): line.split("|")[2:4] for line in (tmp_path / "loop.md").read_text().splitlines()
    }
    first, second = (float(share.strip(" %")) for share in rows["test images, in the densest fog"])
    assert second > first + 2
    assert (tmp_path / "loop.png").is_file()
    assert "300 labels" in printed
    assert "none lost" in printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_gate_refuses_the_second_model() -> None:
    with start(overrides=("gate.significance=1e-300",)) as loop:  # nothing can be so much better
        printed, _ = loop.communicate()
    assert loop.returncode
    assert "better than production on collected images" in printed
    assert "The service keeps the first one" in printed
