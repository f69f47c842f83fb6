"""A server on this machine that plays the part of GitHub's API that starts workflows."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class GitHub(ThreadingHTTPServer):
    """Lists runs and starts them.

    Attributes:
        dispatched: The bodies of the accepted requests for a run.
        asked: Method, path and token of all requests.
        status: Status of the answers by method; None closes the connection after the work is done.
        listed: What it answers when it is asked for the runs; None: how many were started.
        shows_runs: Whether runs are listed; at first, GitHub does not list them.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.dispatched: list[Any] = []
        self.asked: list[tuple[str, str, str]] = []
        self.status: dict[str, int | None] = {}
        self.listed: bytes | None = None
        self.shows_runs = True

    @classmethod
    @contextmanager
    def running(cls) -> Iterator["GitHub"]:
        """Runs the server for the duration of the `with` block."""
        with cls() as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            yield server
            server.shutdown()
            thread.join()


class _Answers(BaseHTTPRequestHandler):
    server: GitHub

    def _answer(self, status: int | None, body: bytes = b"") -> None:
        if status is None:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 307:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.end_headers()
        self.wfile.write(body)

    def _note(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers["Authorization"]))

    def do_GET(self) -> None:
        self._note()
        server = self.server
        runs = len(server.dispatched) if server.shows_runs else 0
        listed = json.dumps({"total_count": runs}).encode() if server.listed is None else server.listed
        self._answer(server.status.get("GET", 200), listed)

    def do_POST(self) -> None:
        self._note()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.server.status.get("POST", 204)
        if status in (204, None):
            self.server.dispatched.append(body)
        self._answer(status)

    def log_message(self, *_: object) -> None:
        pass
