"""Runs the steps of `cloudbuild.yaml` like Cloud Build, with doubles of the commands."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.mlops import ROOT

BUILD: dict[str, Any] = yaml.safe_load((ROOT / "cloudbuild.yaml").read_text())
STEPS: dict[str, dict[str, Any]] = {step["id"]: step for step in BUILD["steps"]}
VALUES = {
    "_IMAGES": "r/p/gtsrb",
    "_TAG": "abc",
    "_TRAIN": "false",
    "_DEPLOY": "true",
    "_OPTIONS": "cloud.tag=abc",
    "_COMMIT": "abcdef",
}
KEY = "key-that-nobody-may-see"
# Records its calls, and fails if the file `fail` contains a matching pattern.
DOUBLE = """#!/bin/sh
echo "$(basename "$0") $*" >> "$HOME/calls"
test -f "$HOME/fail" && echo "$(basename "$0") $*" | grep -q -f "$HOME/fail" && exit 1
exit 0
"""


@dataclass
class Workspace:
    folder: Path
    output: str = ""

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def build(self, **values: str) -> bool:
        """Runs the steps in an order that `waitFor` allows. Returns whether all steps succeeded."""
        done: list[str] = []
        while len(done) < len(STEPS):
            step = next(step for name, step in STEPS.items() if name not in done and needs(name) <= set(done))
            if self._run(step, VALUES | values):
                return False
            done.append(step["id"])
        return True

    def _run(self, step: dict[str, Any], values: dict[str, str]) -> int:
        command = [step.get("entrypoint", "docker"), *(fill(word, values) for word in step["args"])]
        secrets = {name: values.get(name, KEY) for name in step.get("secretEnv", [])}
        own = dict(entry.split("=", 1) for entry in step.get("env", []))
        paths = {"HOME": str(self.folder), "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        result = subprocess.run(
            command, cwd=self.folder, env={**own, **secrets, **paths}, capture_output=True, text=True, check=False
        )
        self.output += result.stdout + result.stderr
        return result.returncode


def needs(name: str) -> set[str]:
    """Returns the steps that must end before another step: those of `waitFor`, or all previous steps."""
    waited = STEPS[name].get("waitFor")
    return set(waited) - {"-"} if waited else set(list(STEPS)[: list(STEPS).index(name)])


def fill(text: str, values: dict[str, str]) -> str:
    """Replaces substitutions like Cloud Build; `$$` becomes `$`."""
    known = {**values, "PROJECT_ID": "my-project"}

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else known[match[1]]

    return re.sub(r"\$\$|\$(_[A-Z]+|PROJECT_ID)", value, text)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    if sys.platform == "win32":
        pytest.skip("Cloud Build runs Unix commands")
    for folder in ("bin", ".bin", "dockerfiles"):
        (tmp_path / folder).mkdir()
    for name in ("bin/docker", "bin/uv", "bin/pip", ".bin/uv", "bin/git"):
        (tmp_path / name).write_text(DOUBLE)
        (tmp_path / name).chmod(0o755)
    return Workspace(tmp_path)


def test_nothing_is_pushed_before_the_tests(workspace: Workspace) -> None:
    assert workspace.build()
    calls = workspace.calls()
    pushes = [i for i, call in enumerate(calls) if call.startswith("docker push")]
    assert len(pushes) == 3
    assert calls.index("uv run inv test") < min(pushes)
    assert max(pushes) < next(i for i, call in enumerate(calls) if "src.mlops.cloud.deploy" in call)
    assert any("--tag=r/p/gtsrb/api:abc --tag=r/p/gtsrb/api:latest --cache-from=" in call for call in calls)


def test_training_only_on_request_and_after_the_push(workspace: Workspace) -> None:
    assert workspace.build()
    assert not any("cloud.submit" in call for call in workspace.calls())
    options = '\'cloud.train.options=["data=gcs","tracking=wandb"]\' \'cloud.train.machine="two words"\''
    assert workspace.build(_TRAIN="true", _DEPLOY="false", _OPTIONS=options)
    calls = workspace.calls()
    train = next(i for i, call in enumerate(calls) if "src.mlops.cloud.submit" in call)
    assert "docker push --all-tags r/p/gtsrb/train" in calls[:train]
    assert calls[train].endswith(
        'src.mlops.cloud.submit cloud.train.options=["data=gcs","tracking=wandb"] cloud.train.machine="two words"'
    )
    assert any("--build-arg=MLOPS_COMMIT=abcdef" in call for call in calls)
    assert sum("cloud.deploy" in call for call in calls) == 1


@pytest.mark.parametrize(
    ("fails", "never"),
    [
        ("inv test", "docker push"),
        ("inv check", "docker push"),
        ("build --file=dockerfiles/Dockerfile.api", "cloud.deploy"),
        ("push --all-tags r/p/gtsrb/train", "cloud.submit"),
        ("cloud.submit", "cloud.deploy"),
    ],
)
def test_a_failing_step_stops_the_build(workspace: Workspace, fails: str, never: str) -> None:
    (workspace.folder / "fail").write_text(fails)
    assert not workspace.build(_TRAIN="true")
    assert not any(never in call for call in workspace.calls())


def test_a_missing_cache_image_is_no_error(workspace: Workspace) -> None:
    (workspace.folder / "fail").write_text("docker pull")
    assert workspace.build()


def test_a_missing_key_stops_the_training(workspace: Workspace) -> None:
    options = "'cloud.train.options=[\"tracking=wandb\"]'"
    assert not workspace.build(_TRAIN="true", _OPTIONS=options, WANDB_API_KEY="none")
    assert "wandb-api-key" in workspace.output
    assert not any("cloud.submit" in call for call in workspace.calls())


def test_the_key_is_never_shown(workspace: Workspace) -> None:
    assert workspace.build(_TRAIN="true")
    assert KEY not in workspace.output
    assert KEY not in "\n".join(workspace.calls())


def test_every_secret_is_declared_and_used_by_one_step() -> None:
    declared = {entry["env"] for entry in BUILD["availableSecrets"]["secretManager"]}
    used = [(step["id"], name) for step in BUILD["steps"] for name in step.get("secretEnv", [])]
    assert used == [("train", name) for name in declared]
