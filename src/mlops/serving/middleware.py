"""Middleware for every request: request ID, header size, API key, security headers, access log and metrics."""

import hmac
import logging
import os
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.mlops.serving import prometheus
from src.mlops.serving.errors import FAILED, problem
from src.mlops.serving.logs import REQUEST_ID
from src.mlops.serving.settings import Settings

logger = logging.getLogger(__name__)
MAX_HEADER_BYTES = 16 * 1024
_REQUEST_ID = re.compile(rb"[\w.:-]{1,128}")
_OPEN = ("/health/", "/static/", "/metrics", "/docs", "/openapi.json")  # paths that need no API key
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"geolocation=(), microphone=()"),
    (b"cache-control", b"no-store"),
]
_STRICT = b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE = _STRICT + b"; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'"
# Swagger UI uses inline styles and `data:` icons.
_DOCS = _STRICT + b"; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
_POLICIES = {"/": _PAGE, "/docs": _DOCS}


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


class Guard:
    """The outermost middleware of the application.

    Args:
        app: The wrapped application.
        settings: The settings of the service.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._keys = [key.encode() for key in settings.listed(settings.api_keys)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on or rejects it, then logs and counts the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        given = header(scope, b"x-request-id")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()
        token = REQUEST_ID.set(request_id)
        added = [
            (b"x-request-id", request_id.encode()),
            *_HEADERS,
            (b"content-security-policy", _POLICIES.get(scope["path"], _STRICT)),
        ]
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            refusal = self._refusal(scope)
            await (refusal or self._app)(scope, receive, answer)
        except Exception:
            # An unexpected error. Its details go into the log only, not into the response.
            logger.exception("Request failed: %s %r", scope["method"], scope["path"])
            if status:
                raise
            await problem(500, FAILED)(scope, receive, answer)
        finally:
            _note(scope, status, time.perf_counter() - started)
            REQUEST_ID.reset(token)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        size = len(scope["path"]) + len(scope["query_string"])
        for name, value in scope["headers"]:
            size += len(name) + len(value)
        if size > MAX_HEADER_BYTES:
            return problem(431, f"The request line and headers have {size:,} bytes; the limit is {MAX_HEADER_BYTES:,}.")
        # A CORS preflight request (OPTIONS) never contains the key.
        if (
            self._keys
            and scope["method"] != "OPTIONS"
            and scope["path"] != "/"
            and not scope["path"].startswith((*_OPEN, "/admin/"))
        ):
            given = header(scope, b"x-api-key")
            # Compares all keys in constant time. The response time then contains no information about them.
            if not sum(hmac.compare_digest(given, key) for key in self._keys):
                wrong = "The API key in the header X-API-Key is not valid."
                missing = "The API key is missing. Send it in the header X-API-Key."
                return problem(401, wrong if given else missing, {"WWW-Authenticate": "X-API-Key"})
        return None


def _note(scope: Scope, status: int, seconds: float) -> None:
    # Counts by route, because every unknown path would otherwise add a new time series.
    route = getattr(scope.get("route"), "path", "other")
    prometheus.count_request(route, status or 499, seconds)
    level = logging.DEBUG if 0 < status < 400 else logging.INFO if status < 500 else logging.WARNING
    if logger.isEnabledFor(level):
        fields = {
            "httpRequest": {
                "requestMethod": scope["method"],
                "requestUrl": scope["path"],
                "status": status,
                "remoteIp": (scope.get("client") or ("",))[0],
                "latency": f"{seconds:.6f}s",
            }
        }
        logger.log(
            level,
            "%s %r %s in %.1f ms",
            scope["method"],
            scope["path"],
            status or "aborted",
            1000 * seconds,
            extra={"fields": fields},
        )
