"""Test double of the command `gcloud`: records calls, stores created resources, and fails or answers as scripted.

Calls, state and script are files in one folder: `calls.jsonl`, `state.json` and `script.json`.
"""

import io
import json
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml

VERBS = ("create", "create-oidc", "describe", "delete", "add", "replace", "update-traffic", "rm")
ANSWERS = {
    "auth list": "me@example.com",
    "auth print-identity-token": "token-of-me",
    "projects describe": "123456",
    "billing projects": "billingAccounts/0A0A0A-0B0B0B-0C0C0C",
}
ALWAYS_THERE = ("projects", "billing projects", "artifacts docker images")


def main(arguments: list[str], folder: Path) -> int:
    """Answers one call on stdout and stderr, and returns the exit code."""
    line = " ".join(arguments)
    with (folder / "calls.jsonl").open("a") as file:
        file.write(json.dumps(arguments) + "\n")
    script = json.loads((folder / "script.json").read_text())
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    for fault in script:
        if re.search(fault["match"], line) and fault.get("times", 1) > 0:
            fault["times"] = fault.get("times", 1) - 1
            (folder / "script.json").write_text(json.dumps(script))
            if fault.get("acts"):  # the request succeeds, but its response is lost
                with redirect_stdout(io.StringIO()):
                    act(arguments, line, state)
                (folder / "state.json").write_text(json.dumps(state))
            sys.stdout.write(fault.get("stdout", ""))
            sys.stderr.write(fault.get("stderr", ""))
            return int(fault.get("code", 1))
    code = act(arguments, line, state)
    (folder / "state.json").write_text(json.dumps(state))
    return code


def act(arguments: list[str], line: str, state: dict[str, Any]) -> int:
    words = [word for word in arguments if not word.startswith("--")]
    if words[:2] == ["ai", "custom-jobs"]:
        return training(words, arguments, state)
    place = next((i for i, word in enumerate(words) if word in VERBS), None)
    if place is not None:
        kind, verb = " ".join(words[:place]), words[place]
        name = "latest" if kind == "secrets versions" else words[-1].partition("@")[0]
        things: list[list[str]] = state.setdefault("things", [])
        if verb.startswith("create") or verb == "add":
            if verb != "add" and [kind, name] in things:
                return fail("ALREADY_EXISTS: it already exists")
            things.append([kind, name])
        elif verb in ("delete", "rm"):
            if [kind, name] not in things:
                return fail("NOT_FOUND: it was not found")
            things.remove([kind, name])
        elif kind == "run services":
            return cloud_run(verb, arguments, name, state)
        elif verb == "describe" and kind not in ALWAYS_THERE and [kind, name] not in things:
            return fail("NOT_FOUND: it was not found")
    if words[:3] == ["billing", "budgets", "list"]:
        sys.stdout.write(
            str("budgets/1" if any(thing[0] == "billing budgets" for thing in state.get("things", [])) else "") + "\n"
        )
    else:
        sys.stdout.write(str(next((answer for start, answer in ANSWERS.items() if line.startswith(start)), "")) + "\n")
    return 0


def training(words: list[str], arguments: list[str], state: dict[str, Any]) -> int:
    """Simulates the training jobs of Vertex AI, which accepts any number of jobs with one display name.

    `state["jobs"]` has the jobs, oldest first; `state["job_state"]` is the state of new ones.
    """
    options = dict(word.removeprefix("--").partition("=")[::2] for word in arguments if word.startswith("--"))
    jobs: list[dict[str, Any]] = state.setdefault("jobs", [])
    if words[2] == "create":
        name = f"projects/123456/locations/europe-west4/customJobs/{77 + len(jobs)}"
        jobs.append(
            {
                "name": name,
                "displayName": options["display-name"],
                "state": state.get("job_state", "JOB_STATE_SUCCEEDED"),
            }
        )
        sys.stdout.write(f"{name}\n")
    elif words[2] == "list":
        wanted = options["filter"].removeprefix("displayName=").lower()  # the filters of gcloud ignore case
        found = [job for job in reversed(jobs) if job["displayName"].lower() == wanted]
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        job = next((job for job in jobs if job["name"].endswith(f"/{words[3]}")), None)
        if job is None:
            return fail(f"NOT_FOUND: the job {words[3]} does not exist")
        if words[2] == "cancel":
            job["state"] = "JOB_STATE_CANCELLED"
        sys.stdout.write(f"{job['state']}\t{job.get('error', {}).get('message', '')}\n")
    return 0


def cloud_run(verb: str, arguments: list[str], name: str, state: dict[str, Any]) -> int:
    """Simulates one Cloud Run service with its revisions and their traffic."""
    service = state.get("service")
    if verb == "describe":
        if service is None:
            return fail("Cannot find service [gtsrb]")
        sys.stdout.write(str(json.dumps({"status": service})) + "\n")
    elif verb == "replace":
        wanted = yaml.safe_load(Path(name).read_text())["spec"]["traffic"]
        revisions = state.setdefault("revisions", 0) + 1
        state["revisions"] = revisions
        traffic = []
        for entry in wanted:
            revision = f"r{revisions}" if entry.get("latestRevision") else entry["revisionName"]
            traffic.append({"revisionName": revision, "percent": entry["percent"]})
            if "tag" in entry:
                traffic[-1] |= {"tag": entry["tag"], "url": f"https://{entry['tag']}"}
        state["service"] = {
            "url": "https://service",
            "latestCreatedRevisionName": f"r{revisions}",
            "traffic": traffic,
        }
    else:
        to = next(word for word in arguments if word.startswith("--to-revisions="))
        revision, _, percent = to.removeprefix("--to-revisions=").partition("=")
        state["service"]["traffic"] = [{"revisionName": revision, "percent": int(percent)}]
    return 0


def fail(message: str) -> int:
    sys.stderr.write(f"ERROR: (gcloud) {message}\n")
    return 1
