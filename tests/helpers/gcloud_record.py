"""Access to the calls and the script of the `gcloud` double."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
        (self.folder / "state.json").write_text(json.dumps(self.state() | values))

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


def positions(calls: Sequence[str], *parts: str) -> list[int]:
    """Returns the index of the first call that contains each part."""
    return [next(i for i, call in enumerate(calls) if part in call) for part in parts]
