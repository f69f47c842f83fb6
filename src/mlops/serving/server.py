"""Runs the application with Granian in one or several worker processes."""

import errno
import logging
import os
import signal
import socket

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels

from src.mlops.errors import ServiceError
from src.mlops.serving.settings import MAX_HEADER_BYTES, ServerSettings
from src.mlops.serving.shared import shared_folder

logger = logging.getLogger(__name__)
MAX_CONNECTIONS = 1000  # per worker; further connections wait until the kernel's queue is full
HEADER_SECONDS = 10.0  # limit for receiving the headers of a request, and for an idle connection
STOP_SECONDS = 60  # time after SIGTERM in which workers can answer their requests


def run(settings: ServerSettings, target: str, workers: int = 1) -> None:
    """Runs a service until SIGTERM or Ctrl-C.

    Args:
        settings: The settings of the service. The workers read them from the environment.
        target: Module and name of the application, such as `src.mlops.api:app`.
        workers: Number of processes.

    Raises:
        ServiceError: The port cannot be used, or the workers do not start.
    """
    address = resolve(settings)
    _allow_open_files()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    logger.info("Starting at http://%s:%d%s", host, settings.port, settings.root_path)
    # A worker inherits Granian's handler, which would ignore SIGTERM until the worker has installed its own.
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    os.environ |= settings.as_environment()
    with shared_folder(workers):
        server = Granian(
            target,
            address=address,
            port=settings.port,
            interface=Interfaces.ASGI,
            workers=workers,
            http=HTTPModes.http1,
            websockets=False,
            loop=Loops.auto,
            backlog=2 * MAX_CONNECTIONS,
            backpressure=MAX_CONNECTIONS,
            http1_settings=HTTP1Settings(
                # The middleware rejects headers that are slightly too large, with an explanation.
                header_read_timeout=int(1000 * HEADER_SECONDS),
                max_buffer_size=2 * MAX_HEADER_BYTES,
            ),
            url_path_prefix=settings.root_path or None,
            respawn_failed_workers=True,
            workers_kill_timeout=STOP_SECONDS,
            log_level=LogLevels.warning,
            # Granian's messages go through the handlers of this project.
            log_dictconfig={"loggers": {"_granian": {"handlers": [], "propagate": True}}},
        )
        try:
            server.serve()
        except SystemExit as error:
            if error.code:
                raise ServiceError("A worker failed to start, or crashed repeatedly. See its log above.") from error


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


def resolve(settings: ServerSettings) -> str:
    """Returns the IP address of the host, and checks that the port can be used.

    Granian takes no host names, and its own error is a traceback.

    Args:
        settings: The settings of the service.

    Raises:
        ServiceError: The port cannot be used.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            return str(address[0])
    except OSError as error:
        in_use = "Stop the other service, or choose another port with --port."
        other = "Choose an address of this machine with --host, and a port that you are allowed to use with --port."
        raise ServiceError(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}. "
            f"{in_use if error.errno == errno.EADDRINUSE else other}"
        ) from error
