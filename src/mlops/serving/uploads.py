"""Reads the images of a request from a multipart form or from the body, within limits.

The complete body is read into memory and split into parts there. For an image of a few kB, a streaming parser with
temporary files and threads takes longer than a small network.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from src.mlops.serving.errors import RETRY_AFTER
from src.mlops.serving.middleware import header
from src.mlops.serving.settings import Settings

_BATCHES_HELD = 4  # all requests together can hold this many batches of maximum size in memory
_FORM_OVERHEAD = 16 * 1024  # maximum bytes of a multipart body in addition to its files
_MAX_PART_HEADER = 4096  # bytes
_MAX_OTHER_PARTS = 8  # maximum number of parts of a form in addition to its images


@dataclass(frozen=True)
class Upload:
    """One uploaded image.

    Attributes:
        filename: The file name that the client sent; empty if the image was the body.
        content: The bytes of the image file.
    """

    filename: str
    content: bytes


class Inflow:
    """Reads the images of requests, and limits the memory of all uploads together.

    Args:
        settings: The settings of the service.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._left = _BATCHES_HELD * settings.max_batch_bytes

    @asynccontextmanager
    async def image(self, request: Request) -> AsyncIterator[Upload]:
        """Reads the only image of a request: the part `file` of a form, or the body.

        Args:
            request: The request.

        Yields:
            The image.

        Raises:
            HTTPException: 400, 413, 422 or 503; the detail gives the reason.
        """
        kind = header(request.scope, b"content-type")
        largest = self._settings.max_upload_bytes
        is_form = kind.startswith(b"multipart/form-data")
        if not is_form and not kind.startswith((b"image/", b"application/octet-stream")):
            raise HTTPException(
                422,
                f"{_unsupported(kind)} Send the image in the part `file` of a form (multipart/form-data), or as the "
                "body with a content type such as image/png.",
            )
        async with self._body(request, largest + _FORM_OVERHEAD * is_form, largest) as body:
            upload = _images(body, kind, "file", 1)[0] if is_form else Upload("", body)
            if len(upload.content) > largest:
                raise HTTPException(413, too_large(largest))
            yield upload

    @asynccontextmanager
    async def images(self, request: Request) -> AsyncIterator[list[Upload]]:
        """Reads the images in the parts `files` of a form.

        Only the size of the complete request is limited here. The caller checks the size of each image.

        Args:
            request: The request.

        Yields:
            The images in the order of the form.

        Raises:
            HTTPException: 400, 413, 422 or 503; the detail gives the reason.
        """
        kind = header(request.scope, b"content-type")
        if not kind.startswith(b"multipart/form-data"):
            raise HTTPException(
                422, f"{_unsupported(kind)} Send the images in parts `files` of a form (multipart/form-data)."
            )
        largest = self._settings.max_batch_bytes
        async with self._body(request, largest, largest) as body:
            yield _images(body, kind, "files", self._settings.max_batch_files)

    @asynccontextmanager
    async def _body(self, request: Request, limit: int, stated_limit: int) -> AsyncIterator[bytes]:
        chunks: list[bytes] = []
        size = 0
        try:
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk = message.get("body", b"")
                if size + len(chunk) > limit:
                    raise HTTPException(413, too_large(stated_limit))
                if len(chunk) > self._left:
                    later = {"Retry-After": RETRY_AFTER}
                    raise HTTPException(503, "Too many uploads at the same time. Try again in a moment.", later)
                size += len(chunk)
                self._left -= len(chunk)
                chunks.append(chunk)
                more = message.get("more_body", False)
            yield chunks[0] if len(chunks) == 1 else b"".join(chunks)
        finally:
            self._left += size


def _images(body: bytes, kind: bytes, name: str, max_files: int) -> list[Upload]:
    """Returns the files in the parts called `name`."""
    found: list[Upload] = []
    for options, content in _parts(body, kind, max_files + _MAX_OTHER_PARTS):
        if options.get(b"name") == name.encode() and options.get(b"filename"):
            found.append(Upload(options[b"filename"].decode("utf-8", "replace"), content))
    if not found:
        raise HTTPException(422, f"The form has no file in the part `{name}`.")
    if len(found) > max_files:
        raise HTTPException(413, f"The request has {len(found)} images; the limit is {max_files}.")
    return found


def _parts(body: bytes, kind: bytes, max_parts: int) -> list[tuple[dict[bytes, bytes], bytes]]:
    """Splits a form (RFC 7578) into parts. Returns the `Content-Disposition` options and the content of each part."""
    boundary = parse_options_header(kind)[1].get(b"boundary")
    if not boundary or len(boundary) > 70:  # RFC 2046
        raise _malformed("the content type has no boundary of 1 to 70 characters")
    delimiter = b"\r\n--" + boundary
    if body.count(delimiter) > max_parts:
        raise HTTPException(413, f"The form has more than {max_parts} parts.")
    _, *sections = (b"\r\n" + body).split(delimiter)
    if not sections or not sections.pop().startswith(b"--"):
        raise _malformed("the closing boundary is missing")
    return [_part(section) for section in sections]


def _part(section: bytes) -> tuple[dict[bytes, bytes], bytes]:
    # White space can follow the boundary. An empty line ends the headers, of which there can be none.
    padding, _, rest = section.partition(b"\r\n")
    head, separator, content = (b"\r\n" + rest).partition(b"\r\n\r\n")
    if padding.strip(b" \t") or not separator or len(head) > _MAX_PART_HEADER:
        raise _malformed(f"the headers of a part are incomplete or longer than {_MAX_PART_HEADER:,} bytes")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            return parse_options_header(value)[1], content
    return {}, content


def _malformed(reason: str) -> HTTPException:
    return HTTPException(400, f"The multipart form is malformed: {reason}.")


def _unsupported(kind: bytes) -> str:
    return (
        f"The content type {kind[:80].decode('latin-1')} is not supported." if kind else "The content type is missing."
    )


def too_large(max_bytes: int) -> str:
    """Returns the message for an image or a request above the limit."""
    return f"The upload is larger than the limit of {max_bytes:,} bytes."
