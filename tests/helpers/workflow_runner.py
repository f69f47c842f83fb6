"""Runs workflows like GitHub: all `run:` steps in order, in a fresh clone, with the variables that GitHub sets.

Commands that need an account, the network or much time are doubles (`workflow_double.py`), whose calls are checked
(`workflow_commands.py`): a step that calls something missing fails. Actions are replaced (`workflow_actions.py`).
"""

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from src.mlops import ROOT
from tests.helpers import workflow_double
from tests.helpers.workflow_actions import ACTIONS
from tests.helpers.workflow_commands import JobState, check_call
from tests.helpers.workflow_expressions import Expressions
from tests.helpers.workflow_origin import git

FOLDER = ROOT / ".github" / "workflows"
DOUBLES = ("gcloud", "gh", "docker", "curl", "uv", "uvx", "sudo", "npx")
# Everything else that steps may call. No other command is on the PATH.
TOOLS = (
    *("awk", "basename", "bash", "cat", "chmod", "comm", "cp", "cut", "diff", "dirname", "env", "find", "git", "grep"),
    *("head", "jq", "mkdir", "mv", "rm", "sed", "sha256sum", "sort", "tail", "tee", "test", "tr", "uname", "uniq"),
)
VARIABLES = {  # of the repository; docs/how-to/ci.md lists them
    "GCP_WORKLOAD_IDENTITY_PROVIDER": "projects/1/locations/global/workloadIdentityPools/github/providers/github",
    "GCP_SERVICE_ACCOUNT": "gtsrb-build@my-project.iam.gserviceaccount.com",
    "GCP_REPORT_ACCOUNT": "gtsrb-report@my-project.iam.gserviceaccount.com",
    "GCP_MEASURE_ACCOUNT": "gtsrb-measure@my-project.iam.gserviceaccount.com",
}
REPOSITORY = "owner/name"
NO_VARIABLES = ("event", "token")  # parts of the context `github` that are no environment variables


@dataclass(frozen=True)
class Event:
    """What starts a workflow.

    Attributes:
        name: Such as `push`.
        ref: The branch or tag.
        payload: The part of the webhook payload that the workflow reads.
        inputs: Inputs of `workflow_dispatch`.
        variables: Variables of the repository.
    """

    name: str = "push"
    ref: str = "refs/heads/main"
    payload: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=lambda: VARIABLES)


@dataclass
class Run:
    """The result of a workflow.

    Attributes:
        results: success, failure or skipped for each job.
        ran: The `run:` steps that were executed, as (workflow, job, position of the step).
        calls: Calls of the doubles by job.
        output: Output of all steps by job.
    """

    results: dict[str, str] = field(default_factory=dict)
    ran: set[tuple[str, str, int]] = field(default_factory=set)
    calls: dict[str, list[str]] = field(default_factory=dict)
    output: dict[str, str] = field(default_factory=dict)


class Runner:
    """Runs workflows.

    Args:
        folder: An empty folder for everything that is written.
        origin: A bare repository with the files of this one.
        clone: Folder of a clone, which serves all jobs one after another.
        workflows: Folder of the workflows.
    """

    def __init__(self, folder: Path, origin: Path, clone: Path, workflows: Path = FOLDER) -> None:
        self.folder, self.origin, self.clone, self.workflows = folder, origin, clone, workflows
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        double = self.bin / ".double"
        source = Path(workflow_double.__file__).read_text()
        double.write_text(f"#!{sys.executable} -SE\n{source}")
        double.chmod(0o755)
        for name in DOUBLES:
            (self.bin / name).symlink_to(double)
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name) or f"/missing/{name}")
        self.number = itertools.count(1)

    def run(self, workflow: str, event: Event) -> Run:
        """Runs all jobs of a workflow.

        Raises:
            AssertionError: A step fails, or calls something that does not exist.
        """
        content = yaml.safe_load((self.workflows / workflow).read_text())
        assert _starts(content[True], event), f"{workflow} does not start for {event}"  # YAML reads `on` as true
        run, outputs = Run(), {}
        # Inputs are empty, not unknown, if another event starts the workflow.
        inputs = dict.fromkeys((content[True].get("workflow_dispatch") or {}).get("inputs", {}), "") | dict(
            event.inputs
        )
        todo = dict(content["jobs"])
        while todo:
            name = next(name for name, job in todo.items() if not set(_needs(job)) & todo.keys())
            job = todo.pop(name)
            needs = {other: {"result": run.results[other], "outputs": outputs[other]} for other in _needs(job)}
            contexts = {"github": self._github(event), "vars": event.variables, "inputs": inputs, "needs": needs}
            contexts["env"] = {}
            unmet = {run.results[other] for other in _ancestors(content["jobs"], name)}
            expressions = Expressions(contexts, failed="failure" in unmet, blocked="skipped" in unmet)
            outputs[name] = dict.fromkeys(job.get("outputs", {}), "")
            run.results[name] = "skipped"
            if not expressions.condition(job.get("if")):
                continue
            if "uses" in job:
                inner = self.run(job["uses"].removeprefix("$/.github/workflows/"), _called(event, job))
                run.ran |= inner.ran
                run.results[name] = "success"
                continue
            for matrix in _matrix(job.get("strategy", {}).get("matrix")):
                outputs[name] = self._job(workflow, name, job, contexts | {"matrix": matrix}, run)
            run.results[name] = "success"
        return run

    def _job(self, workflow: str, name: str, job: dict[str, Any], contexts: dict[str, Any], run: Run) -> dict[str, str]:
        place = self.folder / f"job{next(self.number)}"
        state = JobState(
            permissions=job.get("permissions", {}),
            workspace=place / "work",
            clone=self.clone,
            artifacts=self.folder / "artifacts",
            origin=self.origin,
            ref=contexts["github"]["ref_name"],
        )
        execution = _Job(self, place, contexts, state)
        for variable, value in job.get("env", {}).items():
            execution.contexts["env"] |= {variable: Expressions(execution.contexts).fill(value)}
        try:
            for position, step in enumerate(job["steps"]):
                title = step.get("name") or step.get("uses") or step.get("run")
                if execution.step(step, f"{workflow}, job {name}, step {title!r}"):
                    run.ran.add((workflow, name, position))
        finally:
            run.calls.setdefault(name, []).extend(execution.calls)
            run.output[name] = run.output.get(name, "") + execution.output
        return {key: Expressions(execution.contexts).fill(value) for key, value in job.get("outputs", {}).items()}

    def _github(self, event: Event) -> dict[str, Any]:
        kind, _, name = event.ref.removeprefix("refs/").partition("/")
        sha = git(self.origin, "rev-parse", event.ref).strip()
        return {
            "event": event.payload, "event_name": event.name, "ref": event.ref, "ref_name": name, "sha": sha,
            "ref_type": {"heads": "branch", "tags": "tag"}.get(kind, kind), "repository": REPOSITORY,
            "repository_owner": "owner", "actor": "a-person", "workflow": "name of the workflow", "run_id": "1234567",
            "run_number": "12", "run_attempt": "1", "job": "job", "token": "token-of-the-job",
            "server_url": "https://github.com", "api_url": "https://api.github.com",
        }  # fmt: skip


class _Job:
    def __init__(self, runner: Runner, place: Path, contexts: dict[str, Any], state: JobState) -> None:
        self.runner, self.place, self.state, self.github = runner, place, state, contexts["github"]
        self.contexts = contexts | {"steps": {}, "env": {}, "runner": {"temp": str(place / "temp"), "os": "Linux"}}
        self.calls: list[str] = []
        self.output = ""
        for name in ("work", "temp", "home"):
            (place / name).mkdir(parents=True)

    def step(self, step: dict[str, Any], title: str) -> bool:
        """Runs a step. Returns whether it was a command that was executed."""
        own = {key: Expressions(self.contexts).fill(value) for key, value in step.get("env", {}).items()}
        contexts = self.contexts | {"env": self.contexts["env"] | own}
        expressions = Expressions(contexts)
        if not expressions.condition(step.get("if")):
            return False
        outputs: dict[str, str] = {}
        if "uses" in step:
            given = {key: expressions.fill(value) for key, value in step.get("with", {}).items()}
            outputs = self._use(step["uses"], given, title)
        else:
            outputs = self._execute(expressions.fill(step["run"]), step.get("shell"), contexts["env"], title)
        if "id" in step:
            self.contexts["steps"] |= {step["id"]: {"outputs": outputs, "outcome": "success"}}
        return "run" in step

    def _execute(self, script: str, shell: str | None, own: Mapping[str, str], title: str) -> dict[str, str]:
        assert shell in (None, "bash"), f"{title}: unknown shell {shell}"
        work, temp = self.state.workspace, self.place / "temp"
        files = {name: temp / name for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")}
        for path in files.values():
            path.write_text("")
        calls = temp / "calls"
        calls.write_text("")
        variables = {
            **{f"GITHUB_{name.upper()}": value for name, value in self.github.items() if name not in NO_VARIABLES},
            "CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(work), "RUNNER_OS": "Linux",
            "RUNNER_TEMP": str(temp), "HOME": str(self.place / "home"), "PATH": str(self.runner.bin),
            "WORKFLOW_CALLS": str(calls), "WORKFLOW_ARTIFACTS": str(self.state.artifacts),
            **{name: str(path) for name, path in files.items()}, **own,
        }  # fmt: skip
        options = ["--noprofile", "--norc", "-eo", "pipefail"] if shell else ["-e"]
        result = subprocess.run(
            [str(self.runner.bin / "bash"), *options, "-c", script],
            cwd=work, env=variables, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.output += result.stdout + result.stderr
        for line in calls.read_text().splitlines():
            call = json.loads(line)
            self.calls.append(" ".join(call["words"]))
            try:
                check_call(call["words"], call["env"], Path(call["cwd"]), self.state)
            except AssertionError as error:
                raise AssertionError(f"{title}: {error}") from error
        assert result.returncode == 0, f"{title}: exit code {result.returncode}\n{result.stdout}{result.stderr}"
        self.contexts["env"] |= dict(line.split("=", 1) for line in files["GITHUB_ENV"].read_text().splitlines())
        return dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())

    def _use(self, uses: str, given: dict[str, str], title: str) -> dict[str, str]:
        if uses.startswith("$/"):
            self._composite(uses.removeprefix("$/"), given, title)
            return {}
        action, _, revision = uses.partition("@")
        assert len(revision) == 40, f"{title}: {uses} is not pinned to a commit"
        assert action in ACTIONS, f"{title}: the runner does not know {action}"
        try:
            return ACTIONS[action](self.state, given) or {}
        except AssertionError as error:
            raise AssertionError(f"{title}: {error}") from error

    def _composite(self, path: str, given: dict[str, str], title: str) -> None:
        action = yaml.safe_load((ROOT / path / "action.yaml").read_text())
        assert given.keys() <= action["inputs"].keys(), f"{title}: inputs are {sorted(action['inputs'])}"
        for name, facts in action["inputs"].items():
            assert not facts.get("required") or name in given, f"{title}: the input {name} is missing"
        outer = self.contexts
        self.contexts = outer | {
            "inputs": {name: given.get(name, facts.get("default", "")) for name, facts in action["inputs"].items()}
        }
        for step in action["runs"]["steps"]:
            assert "uses" in step or step["shell"] == "bash"
            self.step(step, f"{title}, {path}")
        self.contexts = outer


def _starts(triggers: dict[str, Any], event: Event) -> bool:
    if event.name != "push":
        return event.name in triggers
    _, kind, name = event.ref.split("/", 2)
    patterns = triggers.get("push", {}).get({"heads": "branches", "tags": "tags"}[kind], [])
    return any(fnmatch(name, pattern) for pattern in patterns)


def _needs(job: dict[str, Any]) -> list[str]:
    needs = job.get("needs", [])
    return [needs] if isinstance(needs, str) else list(needs)


def _ancestors(jobs: dict[str, Any], name: str) -> set[str]:
    """Returns all jobs before a job: `success()` is false if one of them was skipped, not only one in `needs`."""
    direct = _needs(jobs[name])
    return set(direct).union(*(_ancestors(jobs, other) for other in direct))


def _called(event: Event, job: dict[str, Any]) -> Event:
    return Event("workflow_call", event.ref, event.payload, job.get("with", {}), event.variables)


def _matrix(matrix: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yields each entry of `include`, and otherwise the first combination only: the others differ in values."""
    if not matrix:
        yield {}
        return
    first = {key: values[0] for key, values in matrix.items() if key != "include"}
    yield from ({**first, **entry} for entry in matrix.get("include", [{}]))
