"""The drift service and the drift job as in their container image: its packages only, and a real server."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from src.mlops import ROOT
from tests.helpers.recording import wait_until
from tests.helpers.traffic import baseline, records, write_log, write_model

# Makes packages that the image does not have unimportable. `sys.modules[name] = None` would confuse SciPy.
BLOCK = """
import sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def absent() -> set[str]:
    """Returns the importable packages that are installed here, but not in the image."""
    recipe = (ROOT / "dockerfiles/Dockerfile.drift").read_text()
    groups = re.findall(r"--group (\w+)", recipe)
    assert set(groups) == {"monitoring", "gcs"}
    words = ["uv", "export", "--no-default-groups", *(f"--group={group}" for group in groups)]
    exported = subprocess.run(
        [*words, "--no-hashes", "--frozen", "--offline", "--quiet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    present = set(re.findall(r"^[\w.-]+", exported, flags=re.MULTILINE))
    found = {
        name
        for name, owners in packages_distributions().items()
        if not {owner.lower().replace("_", "-") for owner in owners} & present and name != "src"
    }
    assert {"torch", "sklearn", "hydra", "onnx"} <= found
    assert not {"pandas", "scipy", "pyarrow", "google"} & found
    return found - {"__editable__", "_virtualenv", "coverage"}  # the coverage of child processes


def python(absent: set[str], code: str) -> list[str]:
    return [sys.executable, "-c", BLOCK.format(absent=absent) + textwrap.dedent(code)]


def test_the_job_needs_no_other_packages(absent: set[str], tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", records(300), write_model(tmp_path / "m.onnx", baseline()))
    code = f"""
        import google.cloud.storage, tenacity
        sys.argv = ["drift", "--log", {log!r}, "--model", {str(tmp_path / "m.onnx")!r}, "--out", {str(tmp_path)!r}]
        from src.mlops.cli import typer_main
        from src.mlops.monitoring.commands import app
        typer_main(app)
    """
    ended = subprocess.run(python(absent, code), cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "drift.json").read_text())["window"]["images"] == 300


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_the_service(absent: set[str], tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", records(300), write_model(tmp_path / "m.onnx", baseline()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return bool(urllib.request.urlopen(f"{url}/health/live", timeout=5).status == 200)
        except (OSError, urllib.error.URLError):
            return False

    command = python(
        absent,
        f"""
        sys.argv = ["drift-api", "--port", "{port}", "--log", {log!r}]
        from src.mlops.cli import typer_main
        from src.mlops.serving.commands import drift
        typer_main(drift)
        """,
    )
    environment = {**os.environ, "MLOPS_DRIFT_TOKEN": "secret", "MLOPS_DRIFT_MODEL": str(tmp_path / "m.onnx")}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: process.poll() is not None or answers(), 60)
            request = urllib.request.Request(
                f"{url}/drift",
                b'{"window": "all"}',
                {"Authorization": "Bearer secret", "Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                assert json.load(response)["window"]["images"] == 300
        finally:
            process.send_signal(signal.SIGTERM)
            _, logged = process.communicate(timeout=60)
    assert process.returncode == 0, logged


def test_the_service_does_not_start_without_its_settings() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "src.mlops.drift_api"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: log_url: this key is missing; token: this key is missing. Settings are")
    assert "such as MLOPS_DRIFT_LOG_URL;" in ended.stderr
