"""Access to the calls, the state and the script of the `gcloud` double."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers import google_resources
from tests.helpers.google_iam import DeniedError, allowed


@dataclass
class Double:
    """The recorded calls of the double, and its scripted answers."""

    folder: Path

    def calls(self) -> list[str]:
        """Returns the recorded command lines, without `gcloud`."""
        path = self.folder / "calls.jsonl"
        return [" ".join(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def arguments(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]

    def forget(self) -> None:
        (self.folder / "calls.jsonl").unlink()

    def script(self, *entries: dict[str, Any]) -> None:
        (self.folder / "script.json").write_text(json.dumps(entries))

    def fails(self, match: str, stderr: str, times: int = 1) -> None:
        self.script({"match": match, "stderr": stderr, "times": times})

    def set_state(self, **values: Any) -> None:
        self.write(self.state() | values)

    def jobs(self) -> list[dict[str, Any]]:
        """Returns the training jobs, oldest first."""
        return list(self.state().get("jobs", []))

    def job_ends(self, state: str, message: str = "") -> None:
        """Changes the state of all training jobs that run."""
        jobs = self.jobs()
        for job in jobs:
            if job["state"] == "JOB_STATE_RUNNING":
                job |= {"state": state, "error": {"message": message}}
        self.set_state(jobs=jobs, job_state=state)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return state

    def write(self, state: dict[str, Any]) -> None:
        (self.folder / "state.json").write_text(json.dumps(state))

    def log_in(self, role: str) -> None:
        """Continues as a service account, or as the owner of the project with the role `owner`."""
        state = self.state()
        state.pop("account", None)
        if role != "owner":
            state["account"] = robot(role)
        self.write(state)

    def may(self, role: str, permission: str, name: str) -> bool:
        """Returns whether a service account has a permission on an object, or with `*` on the list of a folder."""
        return allowed(self.state(), robot(role), permission, "buckets/my-project-gtsrb", name)

    def traffic(self, service: str = "gtsrb") -> dict[str, int]:
        """Returns the traffic by revision."""
        traffic = self.state()["services"][service]["status"]["traffic"]
        return {entry["revisionName"]: entry["percent"] for entry in traffic if entry.get("percent")}

    def ask(self, url: str, headers: Mapping[str, str]) -> str:
        """Calls the service and returns the name of the revision that answers. Raises DeniedError."""
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        if token.count(".") == 2 and token.startswith("ey"):  # the payload contains the readable token of the double
            token = json.loads(base64.urlsafe_b64decode(token.split(".")[1]))["token"]
        state = self.state()
        try:
            revision = google_resources.answer(state, url, {**headers, "Authorization": f"Bearer {token}"})
        finally:
            self.write(state)
        return str(revision["name"])


def robot(role: str) -> str:
    """Returns the address of a service account."""
    return f"gtsrb-{role}@my-project.iam.gserviceaccount.com"


def positions(calls: Sequence[str], *parts: str) -> list[int]:
    """Returns the index of the first call that contains each part."""
    return [next(i for i, call in enumerate(calls) if part in call) for part in parts]


__all__ = ["DeniedError", "Double", "positions", "robot"]
