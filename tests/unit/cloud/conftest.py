"""A double of `gcloud` that records its calls."""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.helpers import gcloud_double
from tests.helpers.gcloud_record import Double


@pytest.fixture
def gcloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Double:
    if sys.platform == "win32":
        pytest.skip("the double needs Unix")
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "gcloud"
    program.touch(0o755)  # shutil.which() must find it; calls are answered in this process, which is faster

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
