"""Tests that the load test fails for a bad service, and which images it sends. The release tests cover a good one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from src.mlops import ROOT
from src.mlops.errors import ServiceError
from src.mlops.io.service_process import free_port
from src.mlops.serving import loadtest
from src.mlops.serving.loadtest import LOCUSTFILE
from tests.helpers.images import make_image


def test_the_load_test_fails_if_the_service_does_not_respond() -> None:
    host = f"http://127.0.0.1:{free_port()}"
    result = CliRunner().invoke(loadtest.app, ["--host", host, "--users", "1", "--seconds", "1"])
    assert isinstance(result.exception, ServiceError)
    assert host in str(result.exception)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_named_pipes_among_the_images_are_ignored(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    make_image(0).save(tmp_path / "b.avif")
    command = [sys.executable, "-c", f"import runpy; print(len(runpy.run_path('{LOCUSTFILE}')['IMAGES']))"]
    environment = os.environ | {"TARGET_IMAGES": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "1\n"
    assert "Ignored 1 named pipes" in done.stderr
