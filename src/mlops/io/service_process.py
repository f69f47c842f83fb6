"""Starts a service in a separate process and waits until it is ready."""

import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

import httpx2 as httpx

from src.mlops import ROOT
from src.mlops.errors import ServiceError

START_TIMEOUT = 60.0  # seconds until the service must be ready
STOP_TIMEOUT = 30.0  # seconds after SIGTERM in which it must end


@contextmanager
def running(
    command: Sequence[str], ready: str, environment: Mapping[str, str] | None = None, folder: Path = ROOT
) -> Iterator[httpx.Client]:
    """Runs a service for the duration of the `with` block, and stops it if SIGINT, SIGTERM or SIGHUP end this process.

    Args:
        command: Command line of the service; a word that is exactly `{port}`, or ends with `:{port}`, gets a free port.
        ready: Path that answers with 2xx once the service is ready.
        environment: Variables in addition to those of this process.
        folder: Working directory of the service.

    Yields:
        An HTTP client whose base URL is the address of the service.

    Raises:
        ServiceError: The service does not start, or a request in the block fails. The message contains its log.
    """
    port = free_port()
    with tempfile.TemporaryFile("w+") as log, EndingSignals() as signals:
        service = subprocess.Popen(  # noqa: S603 - the command comes from this project
            with_port(command, port),
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, **(environment or {})},
        )
        try:
            with signals.raised(), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                _wait(client, ready, service)
                yield client
        except (httpx.HTTPError, ServiceError) as error:
            log.seek(0)
            raise ServiceError(f"The service failed: {error}. Its log: {log.read()}") from error
        finally:
            service.terminate()
            try:
                service.wait(timeout=STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                service.kill()
                service.wait()


class EndingSignals:
    """Turns signals that would end this process into exceptions, so that a service is stopped.

    Signals that arrive outside of `raised`, while the service starts or stops, wait until that is done. A signal that
    is ignored, for example by `nohup`, remains so. Only the main thread can handle signals.
    """

    def __init__(self) -> None:
        self._raises = False
        self._waiting = 0
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):  # Windows: no HUP
                if number not in self._former and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._former[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._raise_waiting()

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raises the first signal that arrives in the block as KeyboardInterrupt or SystemExit."""
        try:
            self._raises = True
            self._raise_waiting()
            yield
        finally:
            self._raises = False

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._waiting = number
        if self._raises:
            self._raises = False
            self._raise_waiting()

    def _raise_waiting(self) -> None:
        number, self._waiting = self._waiting, 0
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number:
            raise SystemExit(128 + number)  # as a shell reports the end by a signal


def _wait(client: httpx.Client, ready: str, service: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise ServiceError(f"it exited with code {service.returncode}")
        try:
            if client.get(ready, timeout=5).is_success:
                return
        except httpx.TransportError:
            pass  # the service does not listen yet
        time.sleep(0.1)
    raise ServiceError(f"it was not ready within {START_TIMEOUT:.0f} s")


def with_port(command: Sequence[str], port: int) -> list[str]:
    """Puts the port into words that are `{port}` or end with `:{port}`. Other braces, as in paths, have no meaning."""
    return [re.sub(r"(^|:)\{port\}$", rf"\g<1>{port}", word) for word in command]


def free_port() -> int:
    """Returns a free TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
