"""Tests what the prediction log keeps when the service is killed or stopped."""

import signal
import sys
import time
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest

from src.mlops.monitoring.read import read_records
from tests.helpers.service import PNG
from tests.integration.serving.test_server import service

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM for one process")


def classify(client: httpx.Client, request_id: str) -> None:
    answer = client.post("/cv_model/", files={"file": ("a.png", PNG)}, headers={"X-Request-ID": request_id})
    assert answer.status_code == 200


def ids_in(folder: Path) -> list[str]:
    return [record["request_id"] for record in read_records(str(folder))]


@pytest.mark.slow
def test_kill_9_loses_at_most_the_flush_seconds(exported: Path, tmp_path: Path) -> None:
    flush_seconds = 1.0
    variables = {"MLOPS_LOG_URL": str(tmp_path), "MLOPS_LOG_FLUSH_SECONDS": str(flush_seconds)}
    answered: dict[str, float] = {}
    with service(exported, "--workers", "2", environment=variables) as (process, port):
        started = time.monotonic()
        while time.monotonic() - started < 4:
            request_id = f"r-{len(answered)}"
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:  # reaches both workers
                classify(client, request_id)
            answered[request_id] = time.monotonic()
        killed = time.monotonic()
        for member in [process, *psutil.Process(process.pid).children(recursive=True)]:
            member.kill()
    assert ids_in(tmp_path) == []  # open files are not read
    with service(exported, environment=variables) as (process, port):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            classify(client, "after")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    kept = ids_in(tmp_path)
    assert kept.pop() == "after"
    assert len(kept) == len(set(kept))
    lost = [killed - moment for request_id, moment in answered.items() if request_id not in kept]
    assert max(lost, default=0) <= flush_seconds + 0.3  # the machine can be busy
    assert len(kept) > len(lost)
    assert not list(tmp_path.rglob("*.part"))


def test_sigterm_loses_no_record(exported: Path, tmp_path: Path) -> None:
    variables = {"MLOPS_LOG_URL": str(tmp_path), "MLOPS_LOG_FLUSH_SECONDS": "60"}
    with service(exported, "--workers", "2", environment=variables) as (process, port):
        wanted = [f"r-{number}" for number in range(40)]
        for request_id in wanted:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                classify(client, request_id)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert sorted(ids_in(tmp_path)) == sorted(wanted)
