"""What arrives: one picture or several, as a multipart form or as the body itself, within limits.

The body is read whole, within its limit, and cut into parts in memory: Starlette's own way through temporary files and
a thread for each costs more than the network does for a picture of a few kB.
"""

from dataclasses import dataclass

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from src.mlops.serving.guards import header

_FORM_OVERHEAD = 16 * 1024  # bytes that a multipart body may have beside its files
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


async def read_picture(request: Request, max_bytes: int) -> Upload:
    """Reads the one picture of a request: a form with the part `file`, or the picture as the body.

    Raises:
        HTTPException: 400, 413 or 422; the detail says what was expected and found.
    """
    kind = header(request.scope, b"content-type")
    if kind.startswith(b"multipart/form-data"):
        body = await _read_body(request.receive, max_bytes + _FORM_OVERHEAD, max_bytes)
        uploads = _pictures(body, kind, "file", 1)
    elif kind.startswith((b"image/", b"application/octet-stream")):
        uploads = [Upload("", await _read_body(request.receive, max_bytes, max_bytes))]
    else:
        raise HTTPException(
            422,
            "expected a form with a picture in the part `file`, or a picture as the body with a content type such as "
            f"image/png, found {kind[:80].decode('latin-1') or 'no content type'}",
        )
    if len(uploads[0].content) > max_bytes:
        raise HTTPException(413, too_large(max_bytes))
    return uploads[0]


async def read_pictures(request: Request, max_files: int, max_bytes: int) -> list[Upload]:
    """Reads the pictures of a form, parts `files`; each may be larger than a picture may be, all together not.

    Raises:
        HTTPException: 400, 413 or 422; the detail says what was expected and found.
    """
    kind = header(request.scope, b"content-type")
    if not kind.startswith(b"multipart/form-data"):
        raise HTTPException(
            422,
            f"expected a form with pictures in parts `files`, found {kind[:80].decode('latin-1') or 'no content type'}",
        )
    body = await _read_body(request.receive, max_bytes, max_bytes)
    return _pictures(body, kind, "files", max_files)


async def _read_body(receive: Receive, limit: int, told: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise HTTPException(413, too_large(told))
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


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
    """Cuts a form into parts: the options of each one's `Content-Disposition`, and its content."""
    boundary = parse_options_header(kind)[1].get(b"boundary")
    if not boundary or len(boundary) > 70:  # RFC 2046
        raise HTTPException(400, "expected a form whose content type names its boundary, found none")
    parts: list[tuple[dict[bytes, bytes], bytes]] = []
    options: dict[bytes, bytes] = {}
    pieces: list[bytes] = []
    name, value, is_complete = b"", b"", False

    def on_part_begin() -> None:
        nonlocal options, pieces
        if len(parts) == max_parts:
            raise HTTPException(413, f"expected a form of at most {max_parts} parts, found more")
        options, pieces = {}, []

    def on_header_field(data: bytes, start: int, end: int) -> None:
        nonlocal name
        name += data[start:end]

    def on_header_value(data: bytes, start: int, end: int) -> None:
        nonlocal value
        value += data[start:end]

    def on_header_end() -> None:
        nonlocal options, name, value
        if name.lower() == b"content-disposition":
            options = parse_options_header(value)[1]
        name, value = b"", b""

    def on_part_data(data: bytes, start: int, end: int) -> None:
        pieces.append(data[start:end])

    def on_part_end() -> None:
        parts.append((options, b"".join(pieces)))

    def on_end() -> None:
        nonlocal is_complete
        is_complete = True

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": on_part_begin,
            "on_header_field": on_header_field,
            "on_header_value": on_header_value,
            "on_header_end": on_header_end,
            "on_part_data": on_part_data,
            "on_part_end": on_part_end,
            "on_end": on_end,
        },
    )
    try:
        parser.write(body)
        parser.finalize()
    except MultipartParseError as error:
        raise HTTPException(400, f"expected a well-formed multipart form, found: {error}") from error
    if body and not is_complete:
        raise HTTPException(400, "expected a well-formed multipart form, found one without its closing boundary")
    return parts


def too_large(max_bytes: int) -> str:
    """Says that a picture or a request is larger than the limit."""
    return f"expected at most {max_bytes:,} bytes, found more"
