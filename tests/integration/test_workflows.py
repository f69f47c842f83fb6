"""Runs every step of every workflow, see `tests/helpers/workflow_runner.py`."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.once import made_once
from tests.helpers.workflow_origin import PROJECT, TRACKED, make_origin, tag
from tests.helpers.workflow_runner import FOLDER, REPOSITORY, TOOLS, VARIABLES, Event, Run, Runner

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not all(map(shutil.which, TOOLS)), reason="the workflows run on Linux with jq"
)
NO_CLOUD = dict.fromkeys(VARIABLES, "")


def pull_request(repository: str = REPOSITORY, ref: str = "refs/heads/main", **more: Any) -> Event:
    payload = {"pull_request": {"number": 7, "head": {"repo": {"full_name": repository}}}}
    return Event("pull_request", ref, payload=payload, **more)


def start(**inputs: str) -> Event:
    return Event("workflow_dispatch", inputs=inputs)


PUSH, FORK = Event("push"), pull_request("someone/fork")
EVENTS = {  # events that together run every step
    "code-check.yaml": [PUSH, FORK],
    "collect.yaml": [Event("schedule")],
    "data-change.yaml": [pull_request(), pull_request(ref=f"refs/heads/{TRACKED}")],
    "deploy.yaml": [start()],
    "docs.yaml": [PUSH, FORK],
    "images.yaml": [PUSH, FORK],
    "load-test.yaml": [PUSH, FORK],
    "model-registry-change.yaml": [Event("push", f"refs/tags/gtsrb{end}") for end in ("@v1.0.0", "#production#2")],
    "pre-commit.yaml": [PUSH, FORK],
    "release.yaml": [Event("push", f"refs/tags/v{PROJECT['version']}")],
    "retrain.yaml": [Event("schedule"), start(reason="DriftFound", again=False)],
    "rollout.yaml": [start(tag=f"gtsrb#{end}") for end in ("staging#3", "production#4", "production#9")],
    "security.yaml": [PUSH, FORK, Event("schedule")],
    "tests.yaml": [PUSH, FORK],
    "train.yaml": [start(data="gcs"), start(data="synthetic")],
}
AFTER_FAILURE = ("Show the log",)  # steps that only run after a failure


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "workflows", make_origin) / "origin.git"


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workflows") / "clone"


@pytest.fixture
def origin(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "origin.git")


@pytest.fixture
def runner(origin: Path, clone: Path, tmp_path: Path) -> Runner:
    return Runner(tmp_path / "runner", origin, clone)


def steps(workflow: str) -> set[tuple[str, str, int]]:
    jobs = yaml.safe_load((FOLDER / workflow).read_text())["jobs"]
    return {
        (workflow, name, position)
        for name, job in jobs.items()
        for position, step in enumerate(job.get("steps", []))
        if "run" in step and step.get("name") not in AFTER_FAILURE
    }


def test_all_workflows_are_run() -> None:
    assert sorted(EVENTS) == sorted(path.name for path in FOLDER.iterdir())


@pytest.mark.parametrize("workflow", EVENTS)
def test_every_step_works(workflow: str, runner: Runner, origin: Path) -> None:
    ran: set[tuple[str, str, int]] = set()
    for event in EVENTS[workflow]:
        if event.inputs.get("tag") == "gtsrb#production#9":
            tag(origin, "gtsrb#production#9", event="rollback", version="v1")
        ran |= runner.run(workflow, event).ran
    assert ran >= steps(workflow)


class TestRollout:
    def rollout(self, runner: Runner, name: str) -> Run:
        return runner.run("rollout.yaml", start(tag=name))

    def test_a_new_version_is_only_measured(self, runner: Runner) -> None:
        run = self.rollout(runner, "gtsrb@v2.0.0")
        assert [name for name, result in run.results.items() if result == "success"] == ["plan", "measure"]
        assert "uv run --no-sync inv registry.pull --version v2 -o registry=gcs" in run.calls["measure"]

    def test_staging_is_deployed_and_tested_under_load(self, runner: Runner) -> None:
        run = self.rollout(runner, "gtsrb#staging#3")
        assert run.results["staging"] == "success"
        assert run.results["production"] == run.results["rollback"] == "skipped"
        assert [call.split()[4] for call in run.calls["staging"][1:]] == ["gcp.deploy", "gcp.loadtest"]
        assert "cloud.serve.model=models:/gtsrb@v" in run.calls["staging"][1]

    def test_production_is_deployed_after_the_measurement(self, runner: Runner) -> None:
        """GitHub would skip it because of the skipped job `rollback`, although it is not in `needs`."""
        run = self.rollout(runner, "gtsrb#production#4")
        assert list(run.calls) == ["plan", "measure", "production"]
        assert "src.mlops.cloud.deploy" in run.calls["production"][-1]
        assert "cloud.serve.model=models:/gtsrb@v" in run.calls["production"][-1]

    def test_a_rollback_does_not_wait_for_a_measurement(self, runner: Runner, origin: Path) -> None:
        checks = [{"name": "F1 of the weakest class", "passed": False}, {"name": "parity", "passed": True}]
        tag(origin, "gtsrb#production#5", event="rollback", version="v1", forced=True, checks=checks)
        run = self.rollout(runner, "gtsrb#production#5")
        assert list(run.calls) == ["plan", "rollback", "measure"]
        assert "src.mlops.cloud.rollback cloud.serve.model=models:/gtsrb@v1" in run.calls["rollback"][-1]
        warning = (
            "v1 is in production again. It had been promoted although it failed the gate: F1 of the weakest class.\n"
        )
        assert f"::warning::{warning}" in run.output["plan"]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("gtsrb#production#7", "has no tag gtsrb#production#7"),
            ("gtsrb@v1.0.0; echo x", "is not a tag of the registry"),
            ("gtsrb#*", "is not a tag of the registry"),
            ("v0.1.0", "is not a tag of the registry"),
            (
                "gtsrb#production#2",
                "gtsrb#production#2 is outdated: the newest change of production is gtsrb#production#4",
            ),
            ("gtsrb#staging#1", "the newest change of staging is gtsrb#staging#3"),
            ("gtsrb#production#5", "v3 was never in staging. Promote it to staging first: inv registry.promote v3"),
            ("gtsrb#production#6", "message of the tag gtsrb#production#6 is not one of the registry"),
        ],
    )
    def test_tags_that_are_not_deployed(self, runner: Runner, origin: Path, name: str, message: str) -> None:
        if name == "gtsrb#production#5":
            tag(origin, name, event="promote", version="v3")
        if name == "gtsrb#production#6":
            tag(origin, name, event="promote", version="v1\nstage=staging")
        with pytest.raises(AssertionError, match=message):
            self.rollout(runner, name)


def test_new_versions_of_ended_jobs_are_measured_and_those_of_retrainings_deployed_to_staging(runner: Runner) -> None:
    calls = runner.run("collect.yaml", Event("schedule")).calls["collect"]
    tags = ("gtsrb#staging#7", "gtsrb@v8.0.0", "gtsrb@v9.0.0")
    assert calls[-3:] == [f"gh workflow run rollout.yaml --ref main --field tag={tag}" for tag in tags]


@pytest.mark.parametrize(
    ("event", "options"),
    [
        (Event("schedule"), " -o cloud.retrain.only_after_drift=true"),
        (start(reason="DriftFound", again=False), ""),
        (start(reason="a person", again=True), " -o cloud.retrain.min_new=0"),
        (start(reason="$(touch /tmp/x); `id`", again=False), ""),  # no part of a script
    ],
)
def test_when_a_retraining_is_started(runner: Runner, event: Event, options: str) -> None:
    run = runner.run("retrain.yaml", event)
    assert run.calls["start"][-1] == f"uv run --no-sync inv gcp.retrain{options}"
    assert "No retraining: 3 labelled images are new." in run.output["start"]


@pytest.mark.parametrize("workflow", ["collect.yaml", "deploy.yaml", "retrain.yaml", "train.yaml", "rollout.yaml"])
def test_nothing_happens_without_a_cloud_or_on_other_branches(workflow: str, runner: Runner) -> None:
    for change in ({"variables": NO_CLOUD}, {"ref": f"refs/heads/{TRACKED}"}):
        run = runner.run(workflow, Event("workflow_dispatch", inputs={"data": "gcs", "tag": "gtsrb@v1.0.0"}, **change))
        assert run.calls == {}


def test_a_variable_is_missing(runner: Runner) -> None:
    event = Event("workflow_dispatch", variables=VARIABLES | {"GCP_SERVICE_ACCOUNT": ""})
    with pytest.raises(
        AssertionError, match=r"no variable with the service account of this job.*docs/how-to/ci\.md lists"
    ):
        runner.run("deploy.yaml", event)


@pytest.mark.parametrize(
    ("event", "source"),
    [
        (pull_request(), "synthetic"),  # no data is tracked
        (pull_request(ref=f"refs/heads/{TRACKED}"), "archives"),
        (pull_request("someone/fork", f"refs/heads/{TRACKED}"), "synthetic"),
        (pull_request(ref=f"refs/heads/{TRACKED}", variables=NO_CLOUD), "synthetic"),
        (pull_request(ref=f"refs/heads/{TRACKED}", variables=VARIABLES | {"GCP_REPORT_ACCOUNT": ""}), "synthetic"),
    ],
)
def test_the_source_of_a_data_report(event: Event, source: str, runner: Runner) -> None:
    run = runner.run("data-change.yaml", event)
    assert f"inv data.report -o data={source}" in run.calls["report"][-1]
    report = (runner.folder / "artifacts" / "data-report" / "report.md").read_text()
    assert ("**synthetic images**" in report) == (source == "synthetic")


BROKEN = {  # step → part of the error
    "uv run --no-sync inv model.calibrate": "No idea what 'model.calibrate' is",
    "uv run --no-sync inv evaluate --fast": "No idea what '--fast' is",
    "uv run --no-sync inv evaluate -o data=photos": "data=photos",
    "uv run --no-sync inv evaluate -o training.epochs=many": "training.epochs",
    "uv run --no-sync inv registry.pull -o registry=gcs": "no step has logged in",
    "uv run --no-sync inv data.pull": "DVC tracks no data",
    "uv run --no-sync python -m src.mlops registry publish": "there is no such command",
    "uv run --no-sync python -m src.mlops registry promote --now": "No such option: --now",
    "uv run --no-sync python -m src.mlops.cloud.calibrate": "there is no such module",
    "uv run --no-sync python -m src.mlops.cloud.smoke_test": "Missing argument 'url'",
    "uv run --no-sync inv serve-bento": "bentoml is in none of the installed dependency groups",
    "uv run --no-sync flake8": "has the command flake8",
    "uv run --group ray inv check": "would also install ['ray']",
    "uv sync": "needs --locked",
    "uv sync --locked --group cuda": "no dependency group cuda",
    "uv sync --locked --no-default-groups --group cloud && uv run --no-sync inv check": "invoke is in none of",
    "uv sync --locked --only-group zizmor && uv run --no-sync zizmor x && uv run inv check": "would also install",
    "uv pip install x && uvx flake8": "the package needs a version",
    "docker build -f dockerfiles/Dockerfile.web .": "do not exist",
    "docker swarm init": "unknown command docker swarm",
    "gh workflow run rollout.yaml --ref main --field tag=x": "needs GH_TOKEN",
    "GH_TOKEN=x gh workflow run rollout.yaml --ref main --field tag=x": "needs the permission actions: write",
    "GH_TOKEN=x gh workflow run rollout.yaml --ref main": "the inputs are ['tag']",
    "GH_TOKEN=x gh workflow run tests.yaml --ref main": "the workflow cannot be started",
    "GH_TOKEN=x gh pr comment 1": "needs the permission pull-requests: write",
    "gcloud run services list": "no step should call gcloud",
    "inv check": "inv: command not found",
    "false | cat; cat missing.txt": "missing.txt",
    "exit 3": "exit code 3",
    "echo ${{ vars.GCP_MEASURING_ACCOUNT }}": "there is no 'GCP_MEASURING_ACCOUNT'",
    "echo ${{ steps.plan.outputs.stage }}": "there is no 'plan'",
    "echo ${{ env.NAME }}": "there is no 'NAME'",
    "echo ${{ toUpper(github.ref) }}": "unknown function toUpper",
}


@pytest.mark.parametrize(("step", "message"), BROKEN.items())
def test_a_step_that_cannot_work_is_found(step: str, message: str, origin: Path, clone: Path, tmp_path: Path) -> None:
    workflow = yaml.safe_load((FOLDER / "code-check.yaml").read_text())
    checkout, setup, *_ = workflow["jobs"]["check"]["steps"]
    workflow["jobs"]["check"]["steps"] = [checkout, setup, {"run": "uv sync --locked"}, {"run": step}]
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(workflow))
    with pytest.raises((AssertionError, TypeError, KeyError), match=re.escape(message)):
        Runner(tmp_path / "runner", origin, clone, tmp_path).run("broken.yaml", PUSH)


def test_a_login_without_the_permission_is_found(origin: Path, clone: Path, tmp_path: Path) -> None:
    text = (FOLDER / "deploy.yaml").read_text()
    for line, message in {
        "id-token: write": "id-token: write",
        "account: ${{ vars": "the input account is missing",
    }.items():
        (tmp_path / "deploy.yaml").write_text(re.sub(rf"^ *{re.escape(line)}.*\n", "", text, flags=re.MULTILINE))
        with pytest.raises(AssertionError, match=message):
            Runner(tmp_path / message, origin, clone, tmp_path).run("deploy.yaml", start())
