"""A `gcloud` that only records, in front of the real one."""

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import gcloud_double


@dataclass
class Double:
    """What the double was asked, and how it shall answer."""

    folder: Path

    def calls(self) -> list[str]:
        """Returns the command lines so far, without `gcloud`."""
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

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return state


@pytest.fixture
def gcloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Double:
    if sys.platform == "win32":
        pytest.skip("the double is a Unix program")
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "gcloud"
    program.touch(0o755)  # to be found; what is asked of it is answered in this process, for forty of them take seconds

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = gcloud_double.main(command[1:], folder)
        return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())

    monkeypatch.setattr("src.mlops.cloud.gcloud.subprocess", SimpleNamespace(run=run))
    double = Double(folder)
    double.script()
    (folder / "state.json").write_text("{}")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    return double


def positions(calls: Sequence[str], *parts: str) -> list[int]:
    """Returns where each part first occurs among the calls."""
    return [next(i for i, call in enumerate(calls) if part in call) for part in parts]
