"""Errors as HTTP answers: problem details of RFC 9457, never a traceback or a path of this machine."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from src.mlops.errors import ImageError, UnsupportedImageError

logger = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
NOT_LOADED = "Model not loaded. Check server logs."
FAILED = "The service failed. Its log says why, beside the request id."
RETRY_AFTER = "1"  # seconds; small pictures in a full queue take less
_MEANING = {
    400: "the form is malformed",
    401: "the API key or token is missing or wrong",
    408: "the request did not arrive in time",
    409: "the new model cannot be used; the former one goes on",
    413: "a picture or the request is larger than the limit, or there are too many pictures",
    415: "the content is no picture of an accepted format",
    422: "there is no picture, or it is damaged, empty, animated or of absurd dimensions",
    431: "the headers are larger than the limit",
    500: "no model is loaded",
    501: "the model cannot say where its evidence lies",
    503: "too many requests wait, or no model is loaded; `Retry-After` says when to come again",
}


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Makes the answer to a request that cannot be served."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(content, status, headers, MEDIA_TYPE)


def status_of(error: ImageError) -> int:
    """Returns the status for a picture that cannot be used."""
    return 415 if isinstance(error, UnsupportedImageError) else 422


def documented(*statuses: int, success: dict[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """Describes answers for the OpenAPI document: problems, and the content of a success."""
    found: dict[int | str, dict[str, Any]] = {200: {"content": success}} if success else {}
    return found | {
        status: {
            "description": _MEANING[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


SCHEMA = {
    "type": "object",
    "description": "Problem details of RFC 9457.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "const": "about:blank"},
        "title": {"type": "string", "examples": ["Unsupported Media Type"]},
        "status": {"type": "integer", "examples": [415]},
        "detail": {"type": "string", "description": "what was expected and what was found"},
    },
}


def install(app: FastAPI) -> None:
    """Makes every error of an application a problem answer."""
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ImageError, _on_image_error)
    app.add_exception_handler(RequestValidationError, _on_bad_request)


async def _on_http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it alone
    return problem(error.status_code, str(error.detail), dict(error.headers or {}))


async def _on_image_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ImageError)  # noqa: S101 - registered for it alone
    return problem(status_of(error), str(error))


async def _on_bad_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it alone
    faults = "; ".join(f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}" for fault in error.errors())
    return problem(422, f"expected another request, found: {faults}")
