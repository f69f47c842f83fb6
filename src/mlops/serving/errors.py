"""HTTP error responses as problem details (RFC 9457), without tracebacks or file paths of the server."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from src.mlops.errors import ImageError, UnsupportedImageError

MEDIA_TYPE = "application/problem+json"
NOT_LOADED = "Model not loaded. Check server logs."
FAILED = "The request failed. The server logs have the reason under the ID in the header X-Request-ID."
RETRY_AFTER = "1"  # seconds; a full queue of small images is done in less time
PNG = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
_MEANING = {
    400: "The form is malformed.",
    401: "The API key or the admin token is missing or wrong.",
    408: "The request did not arrive in time.",
    409: "The new model cannot be used. The previous model remains in service.",
    413: "An image or the request is larger than the limit, or the request has too many images.",
    415: "The content is not an image of a supported format, or it has a content encoding.",
    422: "The image is missing, corrupted, empty or animated, or its dimensions are not supported.",
    429: "The client sent too many requests. `Retry-After` gives the seconds to wait.",
    431: "The headers are larger than the limit.",
    500: "No model is loaded.",
    501: "The model does not support saliency maps.",
    503: "Too many requests are waiting, or no model is loaded. `Retry-After` gives the seconds to wait.",
}


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Builds the error response of a request.

    Args:
        status: HTTP status code.
        detail: Explanation of the error, for people.
        headers: Further headers of the response.

    Returns:
        The response, with the media type `application/problem+json`.
    """
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(content, status, headers, MEDIA_TYPE)


def status_of(error: ImageError) -> int:
    """Returns the HTTP status for an image that cannot be used."""
    return 415 if isinstance(error, UnsupportedImageError) else 422


def documented(
    *statuses: int, success: dict[str, Any] | None = None, meanings: dict[int, str] = _MEANING
) -> dict[int | str, dict[str, Any]]:
    """Describes the responses of a route for the OpenAPI document.

    Args:
        statuses: HTTP statuses of the possible errors.
        success: Content of a successful response, by media type; None leaves it to FastAPI.
        meanings: What each status means.

    Returns:
        A description for each status.
    """
    found: dict[int | str, dict[str, Any]] = {200: {"content": success}} if success else {}
    return found | {
        status: {
            "description": meanings[status],
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
        "detail": {"type": "string", "description": "What is wrong with the request and how to correct it."},
    },
}


def install(app: FastAPI) -> None:
    """Makes an application answer every error with problem details, and adds their schema to its OpenAPI document."""
    generate = app.openapi

    def with_schema() -> dict[str, Any]:
        document = generate()
        document.setdefault("components", {}).setdefault("schemas", {})["Problem"] = SCHEMA
        return document

    app.openapi = with_schema  # type: ignore[method-assign]
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ImageError, _on_image_error)
    app.add_exception_handler(RequestValidationError, _on_bad_request)


async def _on_http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    return problem(error.status_code, str(error.detail), dict(error.headers or {}))


async def _on_image_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ImageError)  # noqa: S101 - registered for this class only
    return problem(status_of(error), str(error))


async def _on_bad_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class only
    faults = "; ".join(f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}" for fault in error.errors())
    return problem(422, f"The request is not valid: {faults}")
