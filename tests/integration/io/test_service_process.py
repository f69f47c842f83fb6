"""Starts services in separate processes."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from src.mlops import ROOT
from src.mlops.io.service_process import running

HTTP = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"]
# A service that never becomes ready, and takes a while to stop.
STUBBORN = """
import signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: ((folder / "stopping").touch(), time.sleep(0.5), sys.exit()))
(folder / "starting").touch()
time.sleep(60)
"""
PROGRAM = f"""
import sys, time
from pathlib import Path
from src.mlops.io.service_process import running

folder, third = Path(sys.argv[1]), sys.argv[2]
try:
    with running({HTTP}, "/"), running({HTTP}, "/"):
        (folder / "ready").touch()
        if third:
            with running([sys.executable, "-c", third, str(folder)], "/"):
                pass
        time.sleep(60)
finally:
    (folder / "cleaned up").touch()
"""
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals for one process")


def test_braces_in_a_word_of_the_command_have_no_meaning(tmp_path: Path) -> None:
    folder = tmp_path / "{x} {port} {"
    folder.mkdir()
    (folder / "model").write_text("content")
    with running([*HTTP, "--directory", str(folder)], "/") as client:
        assert client.get("/model").text == "content"


@contextmanager
def program(folder: Path, first: str = "", third: str = "") -> Iterator[psutil.Popen]:
    """Runs `PROGRAM` and, at the end, checks that none of its services is left."""
    command = [sys.executable, "-c", f"{first}\n{PROGRAM}", str(folder), third]
    with psutil.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        wait_for(folder / ("starting" if third else "ready"))
        services = process.children(recursive=True)
        assert len(services) == (3 if third else 2)
        try:
            yield process
            process.wait(60)
            assert [service for service in services if service.is_running()] == []
            assert (folder / "cleaned up").exists()
        finally:
            for one in (process, *services):
                if one.is_running():
                    one.kill()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not appear"
        time.sleep(0.01)


@posix
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", -signal.SIGINT)])
def test_services_end_with_their_process(tmp_path: Path, name: str, code: int) -> None:
    with program(tmp_path) as process:
        process.send_signal(getattr(signal, name))
    assert process.returncode == code


@posix
def test_services_end_if_signals_arrive_while_one_starts_and_while_it_stops(tmp_path: Path) -> None:
    with program(tmp_path, third=STUBBORN) as process:
        process.terminate()
        wait_for(tmp_path / "stopping")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            process.send_signal(number)
    assert process.returncode in (143, 129, -signal.SIGINT)  # the last one to be handled


@posix
def test_an_ignored_signal_remains_ignored(tmp_path: Path) -> None:
    """As in commands that are started with nohup."""
    with program(tmp_path, first="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)") as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(psutil.TimeoutExpired):
            process.wait(0.2)
        process.terminate()
    assert process.returncode == 143


def test_handlers_of_signals_are_restored() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with running(HTTP, "/"):
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before
