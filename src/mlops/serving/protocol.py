"""HTTP protocol of one connection, with limits for slow and hostile clients and a shutdown that loses no request.

uvicorn implements HTTP and answers the requests in flight at SIGTERM or Ctrl-C. This protocol also drains open
connections: it answers their requests for another `DRAIN_SECONDS`, with `Connection: close`.
"""

import asyncio
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # noqa: TID251 - issue 16 removes this module

from src.mlops.serving import errors as problems
from src.mlops.serving.middleware import MAX_HEADER_BYTES

MAX_CONNECTIONS = 2000  # per process; idle connections are closed after five seconds
MAX_PIPELINED = 16  # requests that a client can send on one connection without waiting for the responses
RECEIVE_SECONDS = 30.0  # limit for receiving a complete request, and for sending data that the client does not read
DRAIN_SECONDS = 0.5  # time in which an open connection can send one more request after SIGTERM


class Protocol(HttpToolsProtocol):
    """One connection with limits."""

    _timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _drains = False
    _receives = False
    _in_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accepts a connection, or closes it if there are too many."""
        super().connection_made(cast(asyncio.Transport, _Joined(transport)))
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()
            return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the timers of a closed connection."""
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Processes received data, and starts the timer if the request is not complete."""
        super().data_received(data)
        if self._receives and self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEADER_BYTES:
                self._refuse(431, f"The request line and headers have more than {MAX_HEADER_BYTES:,} bytes.")
        if self._receives and self._timer is None:
            self._wait()

    def on_message_begin(self) -> None:
        """Records the start of a request."""
        super().on_message_begin()
        self._receives, self._in_head, self._head_bytes = True, True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Adds a header, and ignores trailers after a chunked body."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Starts the response. During shutdown, it is the last one on this connection."""
        self._in_head = False
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError(f"More than {MAX_PIPELINED} pipelined requests")  # uvicorn responds with 400
        super().on_headers_complete()
        if self._drains:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Records that the request is complete."""
        self._receives = False
        self._stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Sends the head of a response without a body, for example the response to a HEAD request."""
        self.transport.write(b"")
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Starts the timer that aborts the connection if the client does not read its response."""
        super().pause_writing()
        self._unread_timer = self.loop.call_later(RECEIVE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stops that timer, because the client has read enough data."""
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
        super().resume_writing()

    def shutdown(self) -> None:
        """Drains the connection: an idle one can still send a request that is already on its way."""
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
            self._refuse(408, f"The request was not complete after {RECEIVE_SECONDS:.0f} s.")
        elif not self.transport.is_closing():
            self.transport.close()  # the client has not sent anything

    def _refuse(self, status: int, detail: str) -> None:
        """Sends an error, unless the application has started its response, and closes the connection."""
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
    """Sends the head and the body of a response together, in one packet and one system call instead of two.

    Args:
        transport: The transport of the connection.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: Any) -> None:
        """Writes data. Holds a head back until uvicorn writes the body in its next call."""
        is_head = data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n")
        if is_head and not self._head and not data.startswith(b"HTTP/1.1 100 "):
            self._head = data
        elif data or self._head:
            self._transport.write(self._head + data)
            self._head = b""

    def close(self) -> None:
        """Sends the remaining data and closes. Aborts if the client does not read it in time."""
        self.write(b"")
        self._transport.close()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(RECEIVE_SECONDS, self._transport.abort)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
