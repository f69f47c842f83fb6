"""Runs the application: one process or several behind one port, bounds for slow clients, and an orderly end.

uvicorn does the work. At SIGTERM or Ctrl-C it finishes what is in flight; here, what open connections send within
`DRAIN_SECONDS` is answered too, with `Connection: close`, so that no client's next request is lost.
"""

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from src.mlops.errors import ServiceError
from src.mlops.serving import metrics, problems
from src.mlops.serving.guards import MAX_HEADER_BYTES
from src.mlops.serving.settings import Settings

logger = logging.getLogger(__name__)
MAX_CONNECTIONS = 2000  # of one process; an idle one is closed after five seconds
MAX_PIPELINED = 16  # requests that one connection may send ahead of their answers
RECEIVE_SECONDS = 30.0  # in which a request must have arrived, and an answer must have been taken
DRAIN_SECONDS = 0.5  # in which an open connection may send one more request after SIGTERM


def run(settings: Settings, make_app: Callable[[Settings], Any]) -> None:
    """Serves until SIGTERM or Ctrl-C.

    Args:
        settings: Of the service.
        make_app: Builds the application, for one process; several build their own from the environment.

    Raises:
        ServiceError: The port cannot be used, or the workers do not start.
    """
    listener = listen(settings)
    _allow_open_files()
    logger.info("starting at http://%s:%d", settings.host, settings.port)
    several = settings.workers > 1
    config = uvicorn.Config(
        "src.mlops.api:app" if several else make_app(settings),
        http=Protocol,
        # uvloop is hardly faster here, and lets some of a hundred connections wait for seconds.
        loop=f"{__name__}:FairLoop",
        proxy_headers=False,
        lifespan="on",
        workers=settings.workers,
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        date_header=False,
        backlog=MAX_CONNECTIONS,
        timeout_graceful_shutdown=60,
    )
    if not several:
        signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again after its orderly end
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            sys.exit(130)  # the shell's code for Ctrl-C; requests in flight were answered first
        return
    try:
        common = tempfile.TemporaryDirectory(prefix="mlops-workers-", ignore_cleanup_errors=True)
    except OSError as error:
        raise ServiceError(
            f"expected a temporary folder for what {settings.workers} workers count, found: {error}. Free some space, "
            "name another folder in TMPDIR, or use --workers 1."
        ) from error
    with common as folder:
        os.environ |= settings.as_environment() | {metrics.FOLDER_VARIABLE: folder}
        workers = Workers(config, [listener], Path(folder))
        workers.run()
        if any(process.exitcode == STARTUP_FAILURE for process in workers.processes):
            raise ServiceError("expected the workers to start, found that one could not. Its log is above.")


class FairLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, taking one new connection at a time, so that the worker with the least to do gets the next."""

    async def create_server(self, *arguments: Any, sock: Any = None, backlog: int = 100, **options: Any) -> Any:
        """Listens on a bound socket; asyncio takes `backlog` connections at once, the kernel keeps that many."""
        server = await super().create_server(*arguments, sock=sock, backlog=1, **options)
        sock.listen(backlog)
        return server


class Protocol(HttpToolsProtocol):
    """One connection, within bounds."""

    _timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _drains = False
    _receives = False
    _in_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a connection, or closes it where there are too many."""
        super().connection_made(cast(asyncio.Transport, _Joined(transport)))
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()
            return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets a connection."""
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads on, and begins to wait if a request is not complete yet."""
        super().data_received(data)
        if self._receives and self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEADER_BYTES:
                self._refuse(431, f"expected at most {MAX_HEADER_BYTES:,} bytes of headers, found more")
        if self._receives and self._timer is None:
            self._wait()

    def on_message_begin(self) -> None:
        """Notes that a request begins."""
        super().on_message_begin()
        self._receives, self._in_head, self._head_bytes = True, True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header; what comes after a chunked body is none of the request's."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Starts to answer; the last time while the service ends."""
        self._in_head = False
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests ahead of their answers")  # answered with 400
        super().on_headers_complete()
        if self._drains:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Notes that the request is here."""
        self._receives = False
        self._stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Sends the head of an answer without a body, as to HEAD."""
        self.transport.write(b"")
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Waits for the client to take its answer, for a time."""
        super().pause_writing()
        self._unread_timer = self.loop.call_later(RECEIVE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Goes on: the client took enough."""
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
        super().resume_writing()

    def shutdown(self) -> None:
        """Lets an idle connection send what is on its way already."""
        self._drains = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(DRAIN_SECONDS, self._close_if_idle)
        else:
            super().shutdown()

    def _close_if_idle(self) -> None:
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()

    def _wait(self) -> None:
        self._timer = self.loop.call_later(RECEIVE_SECONDS, self._on_slow_client)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_slow_client(self) -> None:
        self._timer = None
        if self._receives:
            self._refuse(408, f"expected the whole request within {RECEIVE_SECONDS:.0f} s, found a part of it")
        elif not self.transport.is_closing():
            self.transport.close()  # it never sent anything

    def _refuse(self, status: int, detail: str) -> None:
        """Answers outside of the application, unless that has begun to, and closes."""
        if self.transport.is_closing():
            return
        if self._in_head or not self.cycle.response_started:
            answer = problems.problem(status, detail, {"Connection": "close"})
            lines = [
                b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode()),
                *(b"%s: %s" % pair for pair in answer.raw_headers),
            ]
            self.transport.write(b"\r\n".join([*lines, b"", bytes(answer.body)]))
        self.transport.close()


class _Joined:
    """Sends the head of an answer together with its body: one packet and one system call instead of two.

    Args:
        transport: The connection's own.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: Any) -> None:
        """Keeps a head, which uvicorn writes by itself, for the body that follows at once."""
        is_head = data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n")
        if is_head and not self._head and not data.startswith(b"HTTP/1.1 100 "):
            self._head = data
        elif data or self._head:
            self._transport.write(self._head + data)
            self._head = b""

    def close(self) -> None:
        """Sends what is left, and closes; a client that does not take it is let go of."""
        self.write(b"")
        self._transport.close()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(RECEIVE_SECONDS, self._transport.abort)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Workers(Multiprocess):
    """uvicorn's supervisor: starts workers, replaces dead ones, ends them in order.

    Args:
        config: uvicorn's.
        sockets: What they share.
        folder: Where workers write their metrics.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], folder: Path) -> None:
        super().__init__(config, sockets)
        self._folder = folder

    def terminate_all(self) -> None:
        """Stops listening first: what the kernel took in now would never be answered."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()

    def handle_signals(self) -> None:
        """Replaces workers at SIGHUP, or starts and ends one, as uvicorn has it."""
        with self._forgetting():
            super().handle_signals()

    def keep_subprocess_alive(self) -> None:
        """Replaces dead workers."""
        with self._forgetting() as ended:
            super().keep_subprocess_alive()
        for pid in ended:
            logger.warning("a worker ended (process %s); another takes its place", pid)

    @contextmanager
    def _forgetting(self) -> Iterator[list[int]]:
        """Drops what workers that end meanwhile said of their queues and models; yields which they are, afterwards."""
        before = {process.pid for process in self.processes if process.pid}
        ended: list[int] = []
        yield ended
        ended += before - {process.pid for process in self.processes}
        for pid in ended:
            metrics.forget(pid, self._folder)


def _allow_open_files() -> None:
    """Raises the limit of open files, where the system has one, to what so many connections take."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + 200
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def listen(settings: Settings) -> socket.socket:
    """Binds the port here rather than in uvicorn, so that what is wrong with it is told in one line.

    Raises:
        ServiceError: The port cannot be used.
    """
    try:
        # The protocol too: without it asyncio leaves Nagle's algorithm on, and each answer waits 40 ms.
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        in_use = "Stop the other service, or choose a port with --port."
        other = "Give an address of this machine with --host, and a port that you may use with --port."
        raise ServiceError(
            f"expected to listen on {settings.host}:{settings.port}, found: {error.strerror}. "
            f"{in_use if error.errno == errno.EADDRINUSE else other}"
        ) from error
    return listener
