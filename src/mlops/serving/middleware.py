"""What every request passes: request id, size of headers, API key, security headers, access log, metrics."""

import hmac
import logging
import os
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.mlops.serving import metrics
from src.mlops.serving.logs import REQUEST_ID
from src.mlops.serving.problems import FAILED, problem
from src.mlops.serving.settings import Settings

logger = logging.getLogger(__name__)
MAX_HEADER_BYTES = 16 * 1024
_REQUEST_ID = re.compile(rb"[\w.:-]{1,128}")
_OPEN = ("/health/", "/static/", "/metrics", "/docs", "/openapi.json")  # what asks for no key
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
# Swagger UI sets styles and draws icons from data of its own.
_DOCS = _STRICT + b"; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
_POLICIES = {"/": _PAGE, "/docs": _DOCS}


def header(scope: Scope, name: bytes) -> bytes:
    """Returns the first header of this name (in lower case), or nothing."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return b""


class Guard:
    """The outermost layer of the application.

    Args:
        app: The application behind.
        settings: Of the service.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._keys = [key.encode() for key in settings.listed(settings.api_keys)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request pass, or refuses it, and notes what came of it."""
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
            # What nobody foresaw; what it was stands in the log alone.
            logger.exception("request failed: %s %r", scope["method"], scope["path"])
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
            return problem(431, f"expected at most {MAX_HEADER_BYTES:,} bytes of headers, found {size:,}")
        # A browser asks with OPTIONS, and without the key, whether it may send one.
        if (
            self._keys
            and scope["method"] != "OPTIONS"
            and scope["path"] != "/"
            and not scope["path"].startswith((*_OPEN, "/admin/"))
        ):
            given = header(scope, b"x-api-key")
            # Every key is compared, and in constant time, so that the time taken tells nothing.
            if not sum(hmac.compare_digest(given, key) for key in self._keys):
                found = "another" if given else "none"
                return problem(
                    401,
                    f"expected an API key in the header X-API-Key, found {found}",
                    {"WWW-Authenticate": "X-API-Key"},
                )
        return None


def _note(scope: Scope, status: int, seconds: float) -> None:
    # The route, not the path: what strangers ask for must not make new series without end.
    route = getattr(scope.get("route"), "path", "other")
    metrics.count_request(route, status or 499, seconds)
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
            status or "gone",
            1000 * seconds,
            extra={"fields": fields},
        )
