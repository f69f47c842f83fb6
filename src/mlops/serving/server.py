"""Runs the application with uvicorn, in one process or in several that share a port."""

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
from uvicorn.config import STARTUP_FAILURE  # noqa: TID251 - issue 16 starts a stock server
from uvicorn.supervisors import Multiprocess  # noqa: TID251 - likewise

from src.mlops.errors import ServiceError
from src.mlops.serving import prometheus
from src.mlops.serving.protocol import MAX_CONNECTIONS, Protocol
from src.mlops.serving.settings import Settings

logger = logging.getLogger(__name__)


def run(settings: Settings, make_app: Callable[[Settings], Any]) -> None:
    """Runs the service until SIGTERM or Ctrl-C.

    Args:
        settings: The settings of the service.
        make_app: Builds the application if there is one process. Several workers build it from the environment.

    Raises:
        ServiceError: The port cannot be used, or the workers do not start.
    """
    listener = listen(settings)
    _allow_open_files()
    logger.info("Starting at http://%s:%d", settings.host, settings.port)
    several = settings.workers > 1
    config = uvicorn.Config(
        "src.mlops.api:app" if several else make_app(settings),
        http=Protocol,
        # uvloop is hardly faster here, and with a hundred connections some of them wait for seconds.
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
        signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises the signal again after shutdown
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            sys.exit(130)  # the shell's exit code for Ctrl-C; all requests in flight are answered by now
        return
    try:
        common = tempfile.TemporaryDirectory(prefix="mlops-workers-", ignore_cleanup_errors=True)
    except OSError as error:
        raise ServiceError(
            f"Cannot create a temporary folder for the metrics of {settings.workers} workers: {error}. Free some disk "
            "space, set TMPDIR to a different folder, or use --workers 1."
        ) from error
    with common as folder:
        os.environ |= settings.as_environment() | {prometheus.FOLDER_VARIABLE: folder}
        workers = Workers(config, [listener], Path(folder))
        workers.run()
        if any(process.exitcode == STARTUP_FAILURE for process in workers.processes):
            raise ServiceError("A worker failed to start. See its log above for the reason.")


class FairLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that accepts one connection at a time, which gives the next one to the least busy worker."""

    async def create_server(self, *arguments: Any, sock: Any = None, backlog: int = 100, **options: Any) -> Any:
        """Listens on a bound socket. The kernel still queues `backlog` connections; asyncio accepts one of them."""
        server = await super().create_server(*arguments, sock=sock, backlog=1, **options)
        sock.listen(backlog)
        return server


class Workers(Multiprocess):
    """Extends uvicorn's supervisor, which starts workers, replaces dead ones and shuts them down.

    Args:
        config: The configuration of uvicorn.
        sockets: The sockets that the workers share.
        folder: The folder of the workers' metrics.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], folder: Path) -> None:
        super().__init__(config, sockets)
        self._folder = folder

    def terminate_all(self) -> None:
        """Stops listening, then ends the workers. Otherwise the kernel would accept connections that nobody answers."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()

    def handle_signals(self) -> None:
        """Replaces all workers at SIGHUP, and adds or removes one at SIGTTIN or SIGTTOU, as in uvicorn."""
        with self._forgetting():
            super().handle_signals()

    def keep_subprocess_alive(self) -> None:
        """Replaces dead workers."""
        with self._forgetting() as ended:
            super().keep_subprocess_alive()
        for pid in ended:
            logger.warning("Replaced a worker that exited (process %s)", pid)

    @contextmanager
    def _forgetting(self) -> Iterator[list[int]]:
        """Removes the gauges of workers that end in this context. At exit, the yielded list has their process IDs."""
        before = {process.pid for process in self.processes if process.pid}
        ended: list[int] = []
        yield ended
        ended += before - {process.pid for process in self.processes}
        for pid in ended:
            prometheus.forget(pid, self._folder)


def _allow_open_files() -> None:
    """Raises the limit of open files, if the system has one, to the number that `MAX_CONNECTIONS` needs."""
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
    """Binds the port. If uvicorn did it, an error would not be a message of one line.

    Args:
        settings: The settings of the service.

    Returns:
        The bound socket.

    Raises:
        ServiceError: The port cannot be used.
    """
    try:
        # Pass the protocol as well. Without it asyncio leaves Nagle's algorithm on, and each response waits 40 ms.
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        in_use = "Stop the other service, or choose another port with --port."
        other = "Choose an address of this machine with --host, and a port that you are allowed to use with --port."
        raise ServiceError(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}. "
            f"{in_use if error.errno == errno.EADDRINUSE else other}"
        ) from error
    return listener
