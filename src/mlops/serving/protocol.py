"""One connection: bounds for slow and hostile clients, and an end that loses no request.

uvicorn speaks HTTP. At SIGTERM or Ctrl-C it finishes what is in flight; here, what open connections send within
`DRAIN_SECONDS` is answered too, with `Connection: close`, so that no client's next request is lost.
"""

import asyncio
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from src.mlops.serving import problems
from src.mlops.serving.guards import MAX_HEADER_BYTES

MAX_CONNECTIONS = 2000  # of one process; an idle one is closed after five seconds
MAX_PIPELINED = 16  # requests that one connection may send ahead of their answers
RECEIVE_SECONDS = 30.0  # in which a request must have arrived, and an answer must have been taken
DRAIN_SECONDS = 0.5  # in which an open connection may send one more request after SIGTERM


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
