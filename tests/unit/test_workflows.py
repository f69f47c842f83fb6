"""Rules for the workflows. `tests/integration/test_workflows.py` runs their steps."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.mlops import ROOT
from src.mlops.cloud.github import ENVIRONMENTS
from src.mlops.cloud.github import WORKFLOWS as TRUSTED

GITHUB = ROOT / ".github"
FILES = sorted([*(GITHUB / "workflows").iterdir(), *(GITHUB / "actions").glob("*/action.yaml")])
WORKFLOWS: dict[str, Any] = {path.name: yaml.safe_load(path.read_text()) for path in (GITHUB / "workflows").iterdir()}
JOBS = {f"{file}, {name}": job for file, workflow in WORKFLOWS.items() for name, job in workflow["jobs"].items()}
CREDENTIALS = "gha-creds-0123456789abcdef.json"  # the form that google-github-actions/auth writes
GCLOUD = shutil.which("gcloud")


def test_each_action_is_pinned_to_one_commit() -> None:
    uses = [line for path in FILES for line in re.findall(r"uses: (.*)", path.read_text())]
    pinned = [re.fullmatch(r"([\w/-]+)@([0-9a-f]{40} # v\d+\.\d+\.\d+)", line) for line in uses if line[:2] != "$/"]
    assert all(pinned)
    versions: dict[str, set[str]] = {}
    for match in filter(None, pinned):
        versions.setdefault(match[1], set()).add(match[2])
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize("name", JOBS)
def test_no_job_exceeds_the_limit_of_a_hosted_runner(name: str) -> None:
    job = JOBS[name]
    assert "uses" in job or job["timeout-minutes"] <= 360


@pytest.mark.parametrize("name", ["deploy.yaml, deploy", "train.yaml, submit"])
def test_a_job_waits_as_long_as_a_build_may_take(name: str) -> None:
    seconds = yaml.safe_load((ROOT / "cloudbuild.yaml").read_text())["timeout"].removesuffix("s")
    assert JOBS[name]["timeout-minutes"] > int(seconds) / 60


def test_no_deployment_is_dropped() -> None:
    """A waiting run of a concurrency group is cancelled by the next one unless `queue` is `max`."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, job in JOBS.items():
        if job.get("environment") in ("staging", "production", "rollback"):
            assert "concurrency" not in WORKFLOWS[name.split(",")[0]]
            groups.setdefault(job["concurrency"]["group"], []).append(job["concurrency"])
    assert groups.keys() == {"staging", "production"}
    for settings in groups.values():
        for each in settings:
            # Only a rollback cancels a deployment: that of the version that it takes back.
            assert each.get("queue") == "max" or each["cancel-in-progress"] is True
            assert not (each.get("queue") and each["cancel-in-progress"])
    assert JOBS["rollout.yaml, rollback"]["concurrency"]["cancel-in-progress"]
    assert [each.get("queue") for each in groups["production"]].count(None) == 1


def test_a_rollback_waits_for_nothing() -> None:
    rollout = WORKFLOWS["rollout.yaml"]["jobs"]
    assert rollout["rollback"]["needs"] == "plan"
    assert "uses" not in rollout["plan"]["steps"][-1]
    assert "rollback" in rollout["measure"]["needs"]


def test_rights_need_an_environment_and_the_main_branch() -> None:
    """Accounts that can write are only for jobs that no tag or pull request can change."""
    assert set(TRUSTED) <= WORKFLOWS.keys()
    for name, job in JOBS.items():
        if "GCP_SERVICE_ACCOUNT" in yaml.safe_dump(job):
            assert job["environment"] in ENVIRONMENTS
            assert name.split(",")[0] in TRUSTED
            triggers = WORKFLOWS[name.split(",")[0]][True]  # YAML reads `on` as true
            assert set(triggers) <= {"workflow_dispatch", "schedule"}, name
            first = job if "if" in job and not job.get("needs") else WORKFLOWS[name.split(",")[0]]["jobs"]["plan"]
            assert "github.ref == 'refs/heads/main'" in first["if"]


def test_pipes_do_not_hide_failures() -> None:
    """Without `shell: bash`, GitHub starts bash without the option pipefail."""
    for name, job in JOBS.items():
        for step in job.get("steps", []):
            assert "shell" in step or not re.search(r"\| tee\b", step.get("run", "")), name


@pytest.mark.skipif(sys.platform == "win32", reason="shellcheck has no package for Windows")
def test_all_scripts_pass_shellcheck(tmp_path: Path) -> None:
    scripts = [script for path in FILES for script in _scripts(yaml.safe_load(path.read_text()))]
    assert len(scripts) > 40
    for number, script in enumerate(scripts):
        text = re.sub(r"\$\{\{.*?\}\}", "value", script)
        (tmp_path / f"{number}.sh").write_text(f"#!/usr/bin/env bash\nset -e\n{text}")
    command = [str(Path(sys.executable).with_name("shellcheck")), "--exclude=SC2015"]
    result = subprocess.run([*command, *tmp_path.iterdir()], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def _scripts(tree: Any) -> list[str]:
    if isinstance(tree, dict):
        own = [tree["run"]] if isinstance(tree.get("run"), str) else []
        return own + [script for value in tree.values() for script in _scripts(value)]
    return [script for value in tree for script in _scripts(value)] if isinstance(tree, list) else []


def test_the_documentation_lists_workflows_variables_and_environments() -> None:
    document = (ROOT / "docs/how-to/ci.md").read_text()
    for name in WORKFLOWS:
        assert f"| `{name.removesuffix('.yaml')}` |" in document
    for variable in {name for path in FILES for name in re.findall(r"vars\.(\w+)", path.read_text())}:
        assert f"gh variable set {variable} " in document
    for environment in {job["environment"] for job in JOBS.values() if isinstance(job.get("environment"), str)}:
        assert re.search(rf"Create the environments [^.]*`{environment}`", document)


def test_dependabot_updates_everything_that_is_pinned() -> None:
    updates = yaml.safe_load((GITHUB / "dependabot.yml").read_text())["updates"]
    assert {each["package-ecosystem"] for each in updates} == {
        "uv",
        "github-actions",
        "docker",
        "docker-compose",
        "pip",
    }
    assert all(each["cooldown"]["default-days"] >= 7 for each in updates)
    actions = next(each for each in updates if each["package-ecosystem"] == "github-actions")
    assert actions["directories"] == ["/", "/.github/actions/*"]  # without the second, only workflows are updated


@pytest.mark.parametrize("name", [".gitignore", ".gcloudignore"])
def test_credentials_of_a_workflow_are_ignored(name: str, tmp_path: Path) -> None:
    """`registry register` needs a clean working copy, and `gcloud builds submit` uploads what is not ignored."""
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    shutil.copy(ROOT / name, tmp_path / ".gitignore")
    (tmp_path / CREDENTIALS).touch()
    status = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert status.stdout == "?? .gitignore\n"


def test_credentials_of_a_workflow_are_no_part_of_a_container_image() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert lines[-1] == "**/gha-creds-*.json"  # the last pattern counts


@pytest.mark.slow
@pytest.mark.skipif(GCLOUD is None, reason="gcloud is not installed")
def test_gcloud_uploads_no_credentials(tmp_path: Path) -> None:
    for name in (".gitignore", ".gcloudignore", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / CREDENTIALS).touch()
    for folder in (".git", ".venv", "data"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").touch()
    command = [str(GCLOUD), "meta", "list-files-for-upload", str(tmp_path)]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "CLOUDSDK_CONFIG": str(tmp_path / ".git")},
    )
    assert sorted(result.stdout.split()) == [".gitignore", "README.md"]
