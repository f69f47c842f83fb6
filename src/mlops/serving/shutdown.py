"""Drains connections at SIGTERM, so that clients with open connections lose no request.

A server that shuts down closes idle connections. A request that a client sends at the same moment is lost. This module
therefore lets the application answer for another `DRAIN_SECONDS`, with `Connection: close`, before the server shuts
down. It works with every server that shuts down at SIGINT, for example Granian and uvicorn.
"""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

DRAIN_SECONDS = 0.5  # time in which an open connection can send one more request after SIGTERM


class Shutdown:
    """The state of the shutdown of this process.

    Attributes:
        draining: Whether each response must close its connection.
    """

    draining = False
    _starting: "asyncio.Task[None] | None" = None

    @contextmanager
    def handling_sigterm(self) -> Iterator[None]:
        """Handles SIGTERM in the running event loop until the context ends."""
        if threading.current_thread() is not threading.main_thread():  # for example in tests
            yield
            return
        loop = asyncio.get_running_loop()
        self._starting = asyncio.current_task()
        try:
            loop.add_signal_handler(signal.SIGTERM, self._begin)
        except NotImplementedError:  # Windows
            yield
            return
        yield
        # The server shuts down, and the orchestrator may repeat the signal.
        loop.add_signal_handler(signal.SIGTERM, lambda: None)

    def started(self) -> None:
        """Records that the application has started and can have connections."""
        self._starting = None

    def _begin(self) -> None:
        if self._starting:  # for example while the model is loaded, which can take minutes
            self._starting.cancel()
            signal.raise_signal(signal.SIGINT)
        elif not self.draining:
            self.draining = True
            asyncio.get_running_loop().call_later(DRAIN_SECONDS, signal.raise_signal, signal.SIGINT)
