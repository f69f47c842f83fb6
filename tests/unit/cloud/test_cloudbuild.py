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
    "_CACHE": "r/p/gtsrb-cache",
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

    def fail(self, patterns: str) -> None:
        """Lets commands fail that match one of the patterns; `imagetools inspect` fails if there is no image yet."""
        (self.folder / "fail").write_text(patterns)

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


def test_nothing_is_built_before_the_tests(workspace: Workspace) -> None:
    workspace.fail("imagetools inspect")
    assert workspace.build()
    calls = workspace.calls()
    pushes = [i for i, call in enumerate(calls) if call.startswith("docker buildx build") and " --push " in call]
    assert len(pushes) == 3
    assert calls.index("uv run inv test") < min(i for i, call in enumerate(calls) if call.startswith("docker buildx"))
    assert max(pushes) < next(i for i, call in enumerate(calls) if "src.mlops.cloud.deploy" in call)


@pytest.mark.parametrize("kind", ["api", "train", "drift"])
def test_all_layers_are_cached_in_a_repository_with_other_tags(workspace: Workspace, kind: str) -> None:
    workspace.fail("imagetools inspect")
    assert workspace.build()
    [call] = [call for call in workspace.calls() if f"Dockerfile.{kind} " in call]
    assert f"--tag r/p/gtsrb/{kind}:abc --push" in call
    assert f"--cache-to type=registry,ref=r/p/gtsrb-cache/{kind}:cache,mode=max" in call
    assert f"--cache-from type=registry,ref=r/p/gtsrb-cache/{kind}:cache" in call
    assert "latest" not in call  # tags never move


def test_an_image_that_exists_is_not_built_again(workspace: Workspace) -> None:
    assert workspace.build()
    assert not any("buildx build" in call for call in workspace.calls())
    assert any("cloud.deploy" in call for call in workspace.calls())


def test_the_workers_fit_the_machine() -> None:
    """The machine has 1 GB for each CPU, and a test worker with PyTorch needs more."""
    assert BUILD["options"]["machineType"] == "E2_HIGHCPU_8"
    [workers] = [entry for entry in STEPS["test"]["env"] if entry.startswith("PYTEST_XDIST_AUTO_NUM_WORKERS=")]
    assert int(workers.partition("=")[2]) <= 4


def test_the_log_can_be_shown_while_the_build_runs() -> None:
    assert BUILD["options"]["logging"] == "GCS_ONLY"  # gcloud reads the log from a bucket


def test_training_only_on_request_and_after_the_push(workspace: Workspace) -> None:
    workspace.fail("imagetools inspect")
    assert workspace.build()
    assert not any("cloud.submit" in call for call in workspace.calls())
    options = '\'cloud.train.options=["data=gcs","tracking=wandb"]\' \'cloud.train.machine="two words"\''
    assert workspace.build(_TRAIN="true", _DEPLOY="false", _OPTIONS=options)
    calls = workspace.calls()
    train = next(i for i, call in enumerate(calls) if "src.mlops.cloud.submit" in call)
    assert any("Dockerfile.train" in call and "--push" in call for call in calls[:train])
    assert calls[train].endswith(
        'src.mlops.cloud.submit cloud.train.options=["data=gcs","tracking=wandb"] cloud.train.machine="two words"'
    )
    assert any("--build-arg MLOPS_COMMIT=abcdef" in call for call in calls)
    assert sum("cloud.deploy" in call for call in calls) == 1


@pytest.mark.parametrize(
    ("fails", "never"),
    [
        ("inv test", "docker buildx"),
        ("inv check", "docker buildx"),
        ("Dockerfile.api", "cloud.deploy"),
        ("Dockerfile.drift", "cloud.deploy"),
        ("Dockerfile.train", "cloud.submit"),
        ("cloud.submit", "cloud.deploy"),
    ],
)
def test_a_failing_step_stops_the_build(workspace: Workspace, fails: str, never: str) -> None:
    workspace.fail(f"imagetools inspect\n{fails}")
    assert not workspace.build(_TRAIN="true")
    assert not any(never in call for call in workspace.calls())


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
