"""Runs the steps of the workflow rollout that measure a version as local tasks, in the same order."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from src.mlops import ROOT
from tests.helpers.tiny import write_kaggle

WORKFLOWS = ROOT / ".github" / "workflows"
OWN = ("data-change.yaml", "model-registry-change.yaml", "rollout.yaml", "train.yaml")
MEASURE = ["registry.pull", "evaluate", "model.parity", "model.benchmark", "loadtest"]


def commands() -> list[str]:
    """Returns the `inv` commands that measure a version, in order."""
    job = yaml.safe_load((WORKFLOWS / "rollout.yaml").read_text())["jobs"]["measure"]
    return [step["run"].removeprefix("uv run --no-sync ") for step in job["steps"] if "run" in step]


def test_the_steps_of_a_release() -> None:
    assert [command.split()[1] for command in commands()] == MEASURE


@pytest.mark.parametrize("name", OWN)
def test_workflows_have_minimal_permissions(name: str) -> None:
    content = (WORKFLOWS / name).read_text()
    workflow = yaml.safe_load(content)
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert set(job["permissions"].values()) <= {"read", "write"}
        assert job["permissions"].get("contents") != "write"
    assert "credentials_json" not in content


@pytest.fixture
def inv(tmp_path: Path) -> Callable[[str], str]:
    """Copies the repository to a new one, and returns a function that runs tasks in it."""
    clone = tmp_path / "clone"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    for command in ("init -q", "add -A", "-c user.name=a -c user.email=a@b commit -qm one"):
        subprocess.run(["git", *shlex.split(command)], cwd=clone, check=True)
    for name in ("user.name", "user.email"):
        subprocess.run(["git", "config", name, "a@example.org"], cwd=clone, check=True)
    write_kaggle(clone / "data" / "raw" / "tiny")
    surroundings = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(command: str) -> str:
        result = subprocess.run(
            command, shell=True, cwd=clone, env=surroundings, capture_output=True, text=True, timeout=300, check=False
        )
        assert result.returncode == 0, command + result.stdout + result.stderr
        return result.stdout + result.stderr

    return run


@pytest.mark.slow
def test_from_raw_images_to_a_measured_release(inv: Callable[[str], str]) -> None:
    data = "-o data=archives -o data.image_size=24"
    small = ["model.width=4", "training.epochs=8", "training.batch_size=16", "training.size_schedule=[]", "device=cpu"]
    tiny = " ".join([data, *(f"-o {override}" for override in small)])
    limits = "-o gate.min_robustness=0 -o gate.min_class_f1=0 -o gate.max_calibration_error=1"
    inv("inv data.pack --raw-dir data/raw/tiny && git add -A && git commit -qm data")
    inv("inv data.push && rm -r data/raw/archives/*.zip .dvc/cache && inv data.pull")
    inv(f"inv data.report {data}")
    inv(f"inv train {tiny}")
    inv(f"inv evaluate {data}")
    inv(f"inv model.robustness {data}")
    inv("git status --porcelain && inv registry.register")
    promoted = inv(f"inv registry.promote --stage production {data} {limits}")
    assert "gtsrb@v1 is in production" in promoted
    assert "complete" in inv("inv registry")

    tag = inv("git tag --list 'gtsrb#production#*'").strip()
    known = inv("inv --list")
    settings = (
        "export RELEASE=ckpt_path=models/release/best_model.pth REPORTS=evaluation.reports_dir=reports/x "
        f"READ_ONLY=data.processed_url=null VERSION='{tag}'"
    )
    ran = []
    for command in commands():
        name = command.split()[1]
        assert re.search(rf"^  {name} ", known, flags=re.MULTILINE)
        brief = "--seconds 2 --users 2" if name == "loadtest" else ""
        inv(f"{settings}; {command.replace('-o registry=gcs', '').replace('-o data=gcs', data)} {brief}")
        ran.append(name)
    assert ran == MEASURE
    assert "models/release" in inv("ls -d models/release/best_model.onnx")
