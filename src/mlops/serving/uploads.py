"""What arrives: one picture or several, as a multipart form or as the body itself, within limits.

The body is read whole, within its limit, and cut into parts in memory. For a picture of a few kB, parsers that take a
body piece by piece, temporary files, and a thread for each of them cost more than a small network does.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from src.mlops.serving.guards import header
from src.mlops.serving.problems import RETRY_AFTER
from src.mlops.serving.settings import Settings

_BATCHES_HELD = 4  # bodies of the largest size that requests may hold together
_FORM_OVERHEAD = 16 * 1024  # bytes that a multipart body may have beside its files
_MAX_PART_HEADER = 4096  # bytes
_MAX_OTHER_PARTS = 8  # parts of a form beside those that hold pictures


@dataclass(frozen=True)
class Upload:
    """One picture as it was sent.

    Attributes:
        filename: The name that the client gave it; empty where it is the body itself.
        content: Its bytes.
    """

    filename: str
    content: bytes


class Inflow:
    """Reads the pictures of requests, and keeps what all of them hold in memory together within bounds.

    Args:
        settings: Of the service.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._left = _BATCHES_HELD * settings.max_batch_bytes

    @asynccontextmanager
    async def picture(self, request: Request) -> AsyncIterator[Upload]:
        """Yields the one picture of a request: a form with the part `file`, or the picture as the body.

        Raises:
            HTTPException: 400, 413, 422 or 503; the detail says what was expected and found.
        """
        kind = header(request.scope, b"content-type")
        largest = self._settings.max_upload_bytes
        is_form = kind.startswith(b"multipart/form-data")
        if not is_form and not kind.startswith((b"image/", b"application/octet-stream")):
            raise HTTPException(
                422,
                "expected a form with a picture in the part `file`, or a picture as the body with a content type such "
                f"as image/png, found {_named(kind)}",
            )
        async with self._body(request, largest + _FORM_OVERHEAD * is_form, largest) as body:
            upload = _pictures(body, kind, "file", 1)[0] if is_form else Upload("", body)
            if len(upload.content) > largest:
                raise HTTPException(413, too_large(largest))
            yield upload

    @asynccontextmanager
    async def pictures(self, request: Request) -> AsyncIterator[list[Upload]]:
        """Yields the pictures of a form, parts `files`; each may be larger than a picture may be, all together not.

        Raises:
            HTTPException: 400, 413, 422 or 503; the detail says what was expected and found.
        """
        kind = header(request.scope, b"content-type")
        if not kind.startswith(b"multipart/form-data"):
            raise HTTPException(422, f"expected a form with pictures in parts `files`, found {_named(kind)}")
        largest = self._settings.max_batch_bytes
        async with self._body(request, largest, largest) as body:
            yield _pictures(body, kind, "files", self._settings.max_batch_files)

    @asynccontextmanager
    async def _body(self, request: Request, limit: int, told: int) -> AsyncIterator[bytes]:
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
                    raise HTTPException(413, too_large(told))
                if len(chunk) > self._left:
                    later = {"Retry-After": RETRY_AFTER}
                    raise HTTPException(503, "expected fewer uploads at the same time. Come again.", later)
                size += len(chunk)
                self._left -= len(chunk)
                chunks.append(chunk)
                more = message.get("more_body", False)
            yield chunks[0] if len(chunks) == 1 else b"".join(chunks)
        finally:
            self._left += size


def _pictures(body: bytes, kind: bytes, name: str, max_files: int) -> list[Upload]:
    """Returns the parts called `name` that are files."""
    found: list[Upload] = []
    for options, content in _parts(body, kind, max_files + _MAX_OTHER_PARTS):
        if options.get(b"name") == name.encode() and options.get(b"filename"):
            found.append(Upload(options[b"filename"].decode("utf-8", "replace"), content))
    if not found:
        raise HTTPException(422, f"expected a picture in the part `{name}`, found none")
    if len(found) > max_files:
        raise HTTPException(413, f"expected at most {max_files} pictures, found {len(found)}")
    return found


def _parts(body: bytes, kind: bytes, max_parts: int) -> list[tuple[dict[bytes, bytes], bytes]]:
    """Cuts a form (RFC 7578) into parts: the options of each one's `Content-Disposition`, and its content."""
    boundary = parse_options_header(kind)[1].get(b"boundary")
    if not boundary or len(boundary) > 70:  # RFC 2046
        raise _malformed("a content type that names no boundary")
    delimiter = b"\r\n--" + boundary
    if body.count(delimiter) > max_parts:
        raise HTTPException(413, f"expected a form of at most {max_parts} parts, found more")
    _, *sections = (b"\r\n" + body).split(delimiter)
    if not sections or not sections.pop().startswith(b"--"):
        raise _malformed("one without its closing boundary")
    return [_part(section) for section in sections]


def _part(section: bytes) -> tuple[dict[bytes, bytes], bytes]:
    # A boundary may be followed by white space; the headers end with an empty line, of which there may be none else.
    padding, _, rest = section.partition(b"\r\n")
    head, separator, content = (b"\r\n" + rest).partition(b"\r\n\r\n")
    if padding.strip(b" \t") or not separator or len(head) > _MAX_PART_HEADER:
        raise _malformed("a part whose headers do not end, or are too long")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            return parse_options_header(value)[1], content
    return {}, content


def _malformed(found: str) -> HTTPException:
    return HTTPException(400, f"expected a well-formed multipart form, found {found}")


def _named(kind: bytes) -> str:
    return kind[:80].decode("latin-1") or "no content type"


def too_large(max_bytes: int) -> str:
    """Says that a picture or a request is larger than the limit."""
    return f"expected at most {max_bytes:,} bytes, found more"
