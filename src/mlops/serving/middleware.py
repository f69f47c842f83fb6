"""ASGI middleware for every request: request ID, headers, log and metrics outside; limits of size and time inside.

A function for both services makes a slash at the end of a path optional.
"""

import asyncio
import logging
import math
import os
import re
import time
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.mlops.serving import prometheus
from src.mlops.serving.errors import FAILED, RETRY_AFTER, problem
from src.mlops.serving.logs import REQUEST_ID
from src.mlops.serving.settings import MAX_HEADER_BYTES
from src.mlops.serving.shutdown import Shutdown

logger = logging.getLogger(__name__)
RECEIVE_SECONDS = 30.0  # limit for receiving the body of a request
FORM_OVERHEAD = 16 * 1024  # maximum bytes of a multipart body in addition to its files
_BATCHES_HELD = 4  # the bodies of all requests together can hold this many batches of maximum size in memory
_REQUEST_ID = re.compile(rb"[\w.:-]{1,128}")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"geolocation=(), microphone=()"),
    (b"cache-control", b"no-store"),
]
STRICT = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_POLICY = (b"content-security-policy", STRICT.encode())


def header(scope: Scope, name: bytes) -> bytes:
    """Returns the value of a header.

    Args:
        scope: The ASGI scope of the request.
        name: The header's name in lower case.

    Returns:
        The first value, or empty bytes if the header is missing.
    """
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return b""


def stated_length(scope: Scope) -> float:
    """Returns the size of the body in bytes that the header Content-Length states, or 0 without a valid header."""
    value = header(scope, b"content-length")
    if not value.isdigit():
        return 0
    return int(value) if len(value) <= 15 else math.inf  # converting thousands of digits raises an error


def _has_body(scope: Scope) -> bool:
    return stated_length(scope) > 0 or header(scope, b"transfer-encoding") != b""


class RequestContext:
    """The outermost middleware: gives each request an ID, adds headers to the response, logs and counts it.

    It also answers HEAD for every route that answers GET.

    Args:
        app: The wrapped application.
        shutdown: Decides when responses close their connection.
    """

    def __init__(self, app: ASGIApp, shutdown: Shutdown) -> None:
        self._app = app
        self._shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, then logs and counts the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        given = header(scope, b"x-request-id")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()
        token = REQUEST_ID.set(request_id)
        method, status = scope["method"], 0
        if method == "HEAD":
            scope["method"] = "GET"
        # ASGI's path starts with the root path, but a proxy may have removed it.
        if (root := scope.get("root_path")) and not scope["path"].startswith(f"{root}/"):
            scope["path"] = root + scope["path"]

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], (b"x-request-id", request_id.encode()), *_HEADERS]
                if b"content-security-policy" not in [name for name, _ in message["headers"]]:
                    headers.append(_POLICY)
                if self._shutdown.draining:
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            elif method == "HEAD":
                message["body"] = b""
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            if not status:  # Granian also reports malformed chunks as a disconnect, and would answer them with 500
                detail = "The body of the request is incomplete or malformed."
                await problem(400, detail, {"Connection": "close"})(scope, receive, answer)
                status = 0  # in nearly all cases the client has left
        finally:
            _note(scope, method, status, time.perf_counter() - started)
            REQUEST_ID.reset(token)


class Limits:
    """Rejects requests that are too large or too slow, and answers unexpected errors with 500.

    Args:
        app: The wrapped application.
        max_body: Maximum size of a body in bytes.
        too_large: Message for a larger one.
    """

    def __init__(self, app: ASGIApp, max_body: int, too_large: str) -> None:
        self._app = app
        self._too_large = too_large
        self._max_body = max_body
        self._left = _BATCHES_HELD * self._max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or rejects it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = False
        held = 0
        body_is_complete = False
        deadline = 0.0

        async def start(message: Message) -> None:
            nonlocal has_started
            if not has_started:
                has_started = True
                if not body_is_complete and _has_body(scope):
                    await self._finish_body(scope, receive, message)
            await send(message)

        async def read() -> Message:
            """Receives a part of the body within the limits."""
            nonlocal held, body_is_complete, deadline
            if body_is_complete:
                return await receive()
            deadline = deadline or asyncio.get_running_loop().time() + RECEIVE_SECONDS
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                detail = f"The request was not complete after {RECEIVE_SECONDS:.0f} s."
                raise HTTPException(408, detail, {"Connection": "close"}) from error
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                if held + size > self._max_body:
                    raise HTTPException(413, self._too_large, {"Connection": "close"})
                if size > self._left:
                    detail = "Too many uploads at the same time. Try again in a moment."
                    raise HTTPException(503, detail, {"Retry-After": RETRY_AFTER, "Connection": "close"})
                self._left -= size
                held += size
                body_is_complete = not message.get("more_body", False)
            return message

        try:
            await (self._refusal(scope) or self._app)(scope, read, start)
        except ClientDisconnect:
            raise
        except Exception:
            # An unexpected error. Its details go into the log only, not into the response.
            logger.exception("Request failed: %s %r", scope["method"], scope["path"])
            if has_started:
                raise
            await problem(500, FAILED)(scope, receive, start)
        finally:
            self._left += held

    async def _finish_body(self, scope: Scope, receive: Receive, response: Message) -> None:
        """Receives and drops the rest of a body that the response does not need, for example without a valid key.

        Otherwise, the server closes the connection without notice. The client loses its next request on this
        connection, or even the response, if it is still sending.
        """
        headers = response["headers"] = list(response["headers"])
        if any(name == b"connection" for name, _ in headers):
            return
        left = self._max_body
        if not header(scope, b"expect"):  # such a client sends its body only if it is asked to
            with suppress(TimeoutError):
                async with asyncio.timeout(RECEIVE_SECONDS):
                    while left >= 0:
                        message = await receive()
                        if not message.get("more_body", False):
                            return
                        left -= len(message.get("body", b""))
        headers.append((b"connection", b"close"))

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """Returns the response to a request that its headers alone rule out."""
        size = len(scope["path"]) + len(scope["query_string"])
        for name, value in scope["headers"]:
            size += len(name) + len(value)
        if size > MAX_HEADER_BYTES:
            return problem(431, f"The request line and headers have {size:,} bytes; the limit is {MAX_HEADER_BYTES:,}.")
        # Checked before the body is read: a client that sent `Expect: 100-continue` then sends no body.
        if stated_length(scope) > self._max_body:
            return problem(413, self._too_large, {"Connection": "close"})
        encoding = header(scope, b"content-encoding")
        if encoding.strip().lower() not in (b"", b"identity"):
            detail = (
                f"The content encoding {encoding[:80].decode('latin-1')} is not supported. Send the body without "
                "Content-Encoding."
            )
            return problem(415, detail, {"Accept-Encoding": "identity"})
        return None


def ignore_trailing_slash(router: Router) -> None:
    """Makes a router try a path without a route once more, with or without a slash at its end."""

    async def other_form(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["type"] != "http" or "requested_path" in scope:
            scope["path"] = scope.get("requested_path", path)  # for the log
            await router.not_found(scope, receive, send)
            return
        # Changed in place: the middleware reads the route that is found from the scope.
        scope.update(path=path[:-1] if path.endswith("/") else f"{path}/", requested_path=path)
        await router(scope, receive, send)

    router.default = other_form


def too_large(max_bytes: int) -> str:
    """Returns the message for an image or a request above the limit."""
    return f"The upload is larger than the limit of {max_bytes:,} bytes."


def _note(scope: Scope, method: str, status: int, seconds: float) -> None:
    # Counts by route, because every unknown path would otherwise add a new time series.
    route = getattr(scope.get("route"), "path", "other")
    prometheus.count_request(route, status or 499, seconds)
    level = logging.DEBUG if 0 < status < 400 else logging.INFO if status < 500 else logging.WARNING
    if logger.isEnabledFor(level):
        fields = {
            "httpRequest": {
                "requestMethod": method,
                "requestUrl": scope["path"],
                "status": status,
                "remoteIp": (scope.get("client") or ("",))[0],
                "latency": f"{seconds:.6f}s",
            }
        }
        logger.log(
            level,
            "%s %r %s in %.1f ms",
            method,
            scope["path"],
            status or "aborted",
            1000 * seconds,
            extra={"fields": fields},
        )
