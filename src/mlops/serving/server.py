"""Runs the application: one process or several behind one port. uvicorn does the work."""

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
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from src.mlops.errors import ServiceError
from src.mlops.serving import metrics
from src.mlops.serving.protocol import MAX_CONNECTIONS, Protocol
from src.mlops.serving.settings import Settings

logger = logging.getLogger(__name__)


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
