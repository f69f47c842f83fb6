"""Starts a service as a process of its own and waits until it answers."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import httpx2 as httpx

from src.mlops import ROOT
from src.mlops.errors import ServiceError

START_TIMEOUT = 60.0  # seconds until the service must be ready


@contextmanager
def running(command: Sequence[str], ready: str, environment: Mapping[str, str] | None = None) -> Iterator[httpx.Client]:
    """Runs a service while the body lasts.

    Args:
        command: Its command line; `{port}` stands for a free port.
        ready: The path that answers 2xx as soon as the service can be used.
        environment: Variables beside those of this process.

    Yields:
        A client that knows the service's address.

    Raises:
        ServiceError: It does not start, or a request of the body fails; with its log.
    """
    port = free_port()
    with tempfile.TemporaryFile("w+") as log:
        service = subprocess.Popen(  # noqa: S603 - the callers' own modules
            [word.format(port=port) for word in command],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env={**os.environ, **(environment or {})},
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                _wait(client, ready, service)
                yield client
        except (httpx.HTTPError, ServiceError) as error:
            log.seek(0)
            raise ServiceError(f"expected an answer from the service, found: {error}. Its log: {log.read()}") from error
        finally:
            service.terminate()
            try:
                service.wait(timeout=30)
            except subprocess.TimeoutExpired:
                service.kill()
                service.wait()


def _wait(client: httpx.Client, ready: str, service: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise ServiceError(f"it ended with exit code {service.returncode}")
        try:
            if client.get(ready, timeout=5).is_success:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(0.1)
    raise ServiceError(f"it was not ready within {START_TIMEOUT:.0f} s")


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
