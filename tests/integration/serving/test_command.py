"""Tests the command that starts the service."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from src.mlops import ROOT
from src.mlops.io.service_process import free_port


def test_a_port_in_use_is_reported_in_one_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "src.mlops.api", "--port", str(port)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    for part in (f"127.0.0.1:{port}", "Address already in use", "--port"):
        assert part in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "99999"], "65535"),
        (["--host", "203.0.113.1"], "203.0.113.1"),
    ],
)
def test_invalid_options_are_reported_in_one_line(options: list[str], message: str) -> None:
    command = [sys.executable, "-m", "src.mlops.api", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, message in result.stderr) == (1, True), result.stderr
    assert options[0].removeprefix("--") in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_the_service_without_a_traceback(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "src.mlops.api",
        "--port",
        str(free_port()),
        "--model",
        str(tmp_path / "none.pth"),
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr
        lines = []
        for line in service.stderr:
            lines.append(line)
            if "none.pth" in line:  # the service runs, without a model
                service.send_signal(signal.SIGINT)
    assert service.returncode == 0
    assert "Traceback" not in "".join(lines)
