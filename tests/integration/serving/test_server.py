"""Tests the processes of the service: workers, shutdown under load, slow and hostile clients, traces."""

import http.server
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from src.mlops import ROOT
from src.mlops.io.service_process import free_port
from tests.helpers.graphs import with_an_endless_loop
from tests.helpers.images import encode, make_image
from tests.helpers.service import other_model

PNG = encode(make_image(1), "PNG")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM for one process")
REQUEST = (
    b"POST /cv_model/ HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(PNG)
) + PNG


@contextmanager
def service(
    model: Path, *options: str, code: str = "", environment: dict[str, str] | None = None, with_uvicorn: bool = False
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Starts the service and waits until it is ready. `code` runs first in the same process."""
    port = free_port()
    start = f"{code}\nfrom src.mlops.cli import typer_main\nfrom src.mlops.serving.commands import app\ntyper_main(app)"
    command = [sys.executable, "-c", start, "--port", str(port), "--model", str(model), *options]
    if with_uvicorn:
        command = [sys.executable, "-m", "uvicorn", "src.mlops.api:app", "--port", str(port), *options]
    variables = {**psutil.Process().environ(), "MLOPS_MODEL": str(model), **(environment or {})}
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=variables) as process:
        try:
            _wait(lambda: httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200, process)
            yield process, port
        finally:
            for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
                child.kill()
            process.kill()


def _wait(condition: Any, process: subprocess.Popen[str] | None = None, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process is None or process.poll() is None, process.stderr and process.stderr.read()
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        threading.Event().wait(0.05)
    raise AssertionError(f"the condition was still false after {seconds:.0f} s")


def answer_of(connection: socket.socket) -> bytes:
    """Reads one response. Returns empty bytes if the connection was closed without one."""
    found = b""
    while b"\r\n\r\n" not in found:
        chunk = connection.recv(65536)
        if not chunk:
            return found
        found += chunk
    head, _, body = found.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head.lower())[1])  # type: ignore[index]
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def everything_of(connection: socket.socket) -> bytes:
    """Reads until the service closes the connection."""
    found = b""
    while chunk := connection.recv(65536):
        found += chunk
    return found


def connected(port: int) -> closing[socket.socket]:
    return closing(socket.create_connection(("127.0.0.1", port), timeout=30))


@pytest.mark.parametrize(
    ("workers", "with_uvicorn"),
    [
        ("1", False),
        ("2", False),
        pytest.param("1", True, marks=pytest.mark.slow),
        pytest.param("2", True, marks=pytest.mark.slow),
    ],
)
def test_sigterm_loses_no_request(exported: Path, workers: str, with_uvicorn: bool) -> None:
    started = service(exported, "--workers", workers, with_uvicorn=with_uvicorn)
    with started as (process, port), ThreadPoolExecutor(8) as pool:
        began = threading.Barrier(9)

        def ask() -> tuple[int, int]:
            """Sends requests on one connection until the service closes it. Returns how many were sent and answered."""
            sent = answered = 0
            with connected(port) as connection:
                while True:
                    connection.sendall(REQUEST)
                    sent += 1
                    found = answer_of(connection)
                    answered += found.startswith(b"HTTP/1.1 200")
                    if sent == 20:
                        began.wait()
                    if not found or b"connection: close" in found.lower():
                        return sent, answered

        asking = [pool.submit(ask) for _ in range(8)]
        began.wait()
        process.send_signal(signal.SIGTERM)
        counts = [future.result(timeout=60) for future in asking]
        assert process.wait(timeout=30) == 0
    assert all(sent == answered for sent, answered in counts), counts
    assert sum(sent for sent, _ in counts) > 160


def test_a_large_image_in_flight_is_answered(exported: Path) -> None:
    large = encode(make_image(1, side=900), "PNG")
    head = b"POST /cv_model/ HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(large)
    with service(exported) as (process, port), connected(port) as connection:
        connection.sendall(head + large[:-1])
        process.send_signal(signal.SIGTERM)
        connection.sendall(large[-1:])
        assert answer_of(connection).startswith(b"HTTP/1.1 200")
        assert process.wait(timeout=30) == 0


def test_a_full_temporary_folder_costs_only_metrics(exported: Path) -> None:
    no_space = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    with service(exported, "--workers", "2", code=no_space) as (process, port):
        address = f"http://127.0.0.1:{port}"
        for _ in range(20):
            assert httpx.post(f"{address}/cv_model/", files={"file": ("a.png", PNG)}).status_code == 200
        assert "mlops_requests_total" in httpx.get(f"{address}/metrics").text
        process.send_signal(signal.SIGTERM)
        assert process.stderr
        assert "/metrics shows only one worker" in process.stderr.read()


def test_a_removed_temporary_folder_costs_only_metrics(exported: Path, tmp_path: Path) -> None:
    variables = {"TMPDIR": str(tmp_path), "MLOPS_ADMIN_TOKEN": "secret"}
    with service(exported, "--workers", "2", environment=variables) as (process, port):
        [folder] = tmp_path.glob("mlops-workers-*")
        shutil.rmtree(folder)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            assert client.post("/cv_model/", files={"file": ("a.png", PNG)}).status_code == 200
            answer = client.get("/metrics")
            assert (answer.status_code, "mlops_requests_total" in answer.text) == (200, True)
            assert client.post("/admin/reload", headers={"Authorization": "Bearer secret"}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.3, 0.8, 1.3])
def test_sigterm_during_the_start_ends_the_service(exported: Path, delay: float) -> None:
    command = [sys.executable, "-m", "src.mlops.api", "--port", str(free_port()), "--model", str(exported)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        threading.Event().wait(delay)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


def test_sigterm_while_a_model_is_loaded(exported: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    with_an_endless_loop(exported, model)
    command = [sys.executable, "-m", "src.mlops.api", "--port", str(free_port()), "--model", str(model)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        _wait(lambda: len(psutil.Process(process.pid).children(recursive=True)) >= 2)  # the worker and the trial
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=15)


def test_a_trial_ends_by_itself(exported: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    with_an_endless_loop(exported, model)
    command = [sys.executable, "-m", "src.mlops.serving.trial", str(model), "3"]
    assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == -signal.SIGALRM


def test_a_host_name_is_resolved(exported: Path) -> None:
    with service(exported, "--host", "localhost") as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


@pytest.mark.slow
def test_sighup_replaces_the_worker(exported: Path) -> None:
    with service(exported) as (process, port):
        address = f"http://127.0.0.1:{port}/cv_model/"
        before = workers_of(process)
        process.send_signal(signal.SIGHUP)
        for worker in before:
            psutil.Process(worker).send_signal(signal.SIGHUP)  # a terminal that closes signals all processes
        _wait(lambda: len(workers_of(process)) == 1 and workers_of(process) != before, process)
        assert httpx.post(address, files={"file": ("a.png", PNG)}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def open_connections(process: subprocess.Popen[str]) -> int:
    worker = psutil.Process(min(workers_of(process)))
    return sum(connection.status == psutil.CONN_ESTABLISHED for connection in worker.net_connections())


def workers_of(process: subprocess.Popen[str]) -> set[int]:
    found = set()
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.pid)
    return found


def test_workers_share_metrics_and_reloads_and_are_replaced(exported: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(exported.read_bytes())
    with service(model, "--workers", "2", environment={"MLOPS_ADMIN_TOKEN": "secret"}) as (process, port):
        address = f"http://127.0.0.1:{port}"

        def ask() -> str:
            # A new connection per request distributes the requests over both workers.
            answer = httpx.post(f"{address}/cv_model/", files={"file": ("a.png", PNG)})
            assert answer.status_code == 200
            return str(answer.json()["model_version"])

        for _ in range(30):
            ask()
        counted = re.search(r'route="/cv_model/",status="200"} (\d+)', httpx.get(f"{address}/metrics").text)
        assert counted
        assert counted[1] == "30"

        before = workers_of(process)
        assert len(before) == 2
        psutil.Process(before.pop()).kill()
        _wait(lambda: len(workers_of(process)) == 2 and workers_of(process) != before, process)
        _wait(lambda: httpx.get(f"{address}/health/ready").status_code == 200, process)
        assert "mlops_queue_depth 0.0" in httpx.get(f"{address}/metrics").text

        former = ask()
        model.write_bytes(other_model(exported))
        token = {"Authorization": "Bearer secret"}
        new = httpx.post(f"{address}/admin/reload", headers=token, timeout=30).json()["model_version"]
        assert new != former
        _wait(lambda: {ask() for _ in range(10)} == {new}, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


SHORT = """
import src.mlops.serving.middleware as m, src.mlops.serving.server as s
m.RECEIVE_SECONDS = s.HEADER_SECONDS = 0.3
s.MAX_CONNECTIONS = 20
"""


def test_slow_and_hostile_clients_do_no_harm(exported: Path) -> None:
    with service(exported, code=SHORT) as (process, port):
        with connected(port) as silent, connected(port) as half_head, connected(port) as half_body:
            half_head.sendall(b"POST /cv_model/ HTTP/1.1\r\nHost: x\r\n")
            half_body.sendall(REQUEST[:-10])
            assert httpx.post(f"http://127.0.0.1:{port}/cv_model/", files={"file": ("a.png", PNG)}).status_code == 200
            assert answer_of(silent) == b""  # closed
            assert answer_of(half_head) == b""
            found = answer_of(half_body)
            assert found.startswith(b"HTTP/1.1 408")
            assert json.loads(found.partition(b"\r\n\r\n")[2])["title"] == "Request Timeout"
        with connected(port) as endless:
            endless.sendall(b"GET / HTTP/1.1\r\nX-A: " + b"a" * 40_000)
            assert answer_of(endless).startswith(b"HTTP/1.1 431")
        with connected(port) as nonsense:
            nonsense.sendall(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
            assert answer_of(nonsense).startswith(b"HTTP/1.1 400")
        with connected(port) as leaves:
            leaves.sendall(REQUEST[:-10])
        with connected(port) as keeps:  # two pipelined requests on one connection
            keeps.sendall(REQUEST + REQUEST.replace(b"Host: x", b"Host: x\r\nConnection: close"))
            assert everything_of(keeps).count(b"HTTP/1.1 200") == 2
        with connected(port) as floods:  # handled one after the other, so they need no memory
            floods.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
            assert everything_of(floods).count(b"HTTP/1.1 200") == 500
        with connected(port) as held:  # one packet has the end of a request and the start of the next one
            held.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n")
            held.sendall(b"\r\nGET /health/live HTTP/1.1\r\nHo")
            assert everything_of(held).count(b"HTTP/1.1 ") == 1  # closed without a response to the second request
        with connected(port) as heads:
            heads.sendall(b"HEAD /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert everything_of(heads).endswith(b"\r\n\r\n")
        with connected(port) as expects:
            head, _, body = REQUEST.partition(b"\r\n\r\n")
            expects.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
            assert expects.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            expects.sendall(body)
            assert answer_of(expects).startswith(b"HTTP/1.1 200")
        with connected(port) as huge:
            head = b"POST /cv_model/ HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 900000000\r\n"
            huge.sendall(head + b"Expect: 100-continue\r\n\r\n")
            assert answer_of(huge).startswith(b"HTTP/1.1 413")  # not invited to send the body
        with connected(port) as trails:
            chunked = (
                b"POST /cv_model/ HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            trails.sendall(chunked + b"%x\r\n%b\r\n0\r\nX-Request-ID: trailer\r\n\r\n" % (len(PNG), PNG))
            answer = answer_of(trails)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"trailer" not in answer
        with connected(port) as malformed:
            malformed.sendall(chunked + b"this is no chunk\r\n")
            answer = everything_of(malformed)
            assert answer.startswith(b"HTTP/1.1 400")
            assert b"application/problem+json" in answer
        with connected(port) as never_reads:
            never_reads.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            never_reads.sendall(b"GET /static/swagger/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n")
            _wait(lambda: open_connections(process) == 0)
        crowd = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(40)]
        _wait(lambda: open_connections(process) <= 20)  # the others wait
        address = f"http://127.0.0.1:{port}/cv_model/"
        assert httpx.post(address, files={"file": ("a.png", PNG)}, timeout=30).status_code == 200
        for one in crowd:
            one.close()


def test_refused_bodies_cost_no_connection(exported: Path) -> None:
    with service(exported, environment={"MLOPS_API_KEYS": "key"}) as (_, port):
        head = b"POST /cv_model/ HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        with connected(port) as keeps:
            for size in [60_000] * 30 + [3_000_000]:
                keeps.sendall(head + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
                answer = answer_of(keeps)
                assert answer.startswith(b"HTTP/1.1 401")
                assert b"connection: close" not in answer
            chunk = b"%x\r\n%b\r\n" % (60_000, bytes(60_000))
            keeps.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + 10 * chunk + b"0\r\n\r\n")
            assert answer_of(keeps).startswith(b"HTTP/1.1 401")
            keeps.sendall(head + b"Content-Length: 10\r\nExpect: 100-continue\r\n\r\n")
            answer = everything_of(keeps)
            assert answer.startswith(b"HTTP/1.1 401")
            assert b"connection: close" in answer


def test_opentelemetry_variables_set_the_target_of_traces(exported: Path) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Suppresses the log of requests."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever).start()
        try:
            endpoint = f"http://127.0.0.1:{collector.server_port}"
            variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_METRICS_EXPORTER": "none"}
            with service(exported, environment=variables | {"OTEL_SERVICE_NAME": "signs"}) as (process, port):
                httpx.post(f"http://127.0.0.1:{port}/cv_model/", files={"file": ("a.png", PNG)})
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=30) == 0
        finally:
            collector.shutdown()
    traces = b"".join(body for path, body in received if path == "/v1/traces")
    assert b"POST /cv_model/" in traces
    assert b"signs" in traces
    assert PNG[:40] not in traces
