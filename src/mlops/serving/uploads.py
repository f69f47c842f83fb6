"""Reads the images of a request from a multipart form or from the body.

The middleware limits the size of the body and the time to receive it, so the complete body is read into memory.
"""

from dataclasses import dataclass
from typing import Any

from PIL import Image
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

from src.mlops.preprocessing import WEB_FORMATS
from src.mlops.serving.middleware import FORM_OVERHEAD, header, stated_length, too_large
from src.mlops.serving.settings import Settings

_MAX_OTHER_PARTS = 8  # maximum number of parts of a form in addition to its images
_FORM = b"multipart/form-data"


@dataclass(frozen=True)
class Upload:
    """One uploaded image.

    Attributes:
        filename: The file name that the client sent; empty if the image was the body.
        content: The bytes of the image file.
    """

    filename: str
    content: bytes


class Uploads:
    """Dependencies that read the images of a request.

    A parameter of the type `UploadFile` takes 0.11 ms more per request (docs/explanation/performance.md), and writes
    images above 1 MB to the disk.

    Args:
        settings: The settings of the service.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def image(self, request: Request) -> Upload:
        """Reads the only image of a request: the part `file` of a form, or the body.

        Raises:
            HTTPException: 400, 413 or 422; the detail gives the reason.
        """
        kind = header(request.scope, b"content-type")
        media_type = _media_type(kind)
        largest = self._settings.max_upload_bytes
        is_form = media_type == _FORM
        if not is_form and not media_type.startswith((b"image/", b"application/octet-stream")):
            raise HTTPException(
                422,
                f"{_unsupported(kind)} Send the image in the part `file` of a form (multipart/form-data), or as the "
                "body with a content type such as image/png.",
            )
        # Checked before the body is read.
        if stated_length(request.scope) > largest + FORM_OVERHEAD * is_form:
            raise HTTPException(413, too_large(largest), {"Connection": "close"})
        body = await request.body()
        upload = _images(body, kind, b"file", 1)[0] if is_form else Upload("", body)
        if len(upload.content) > largest:
            raise HTTPException(413, too_large(largest))
        return upload

    async def images(self, request: Request) -> list[Upload]:
        """Reads the images in the parts `files` of a form, in the order of the form.

        The caller checks the size of each image.

        Raises:
            HTTPException: 400, 413 or 422; the detail gives the reason.
        """
        kind = header(request.scope, b"content-type")
        if _media_type(kind) != _FORM:
            raise HTTPException(
                422, f"{_unsupported(kind)} Send the images in parts `files` of a form (multipart/form-data)."
            )
        return _images(await request.body(), kind, b"files", self._settings.max_batch_files)


def documented_request(name: str, *, several: bool) -> dict[str, Any]:
    """Describes the request of a route that takes images, for the OpenAPI document.

    Args:
        name: The name of the form's part.
        several: Whether the form can have several images. A single image can also be the body.
    """
    image: dict[str, Any] = {"type": "string", "format": "binary"}
    images: dict[str, Any] = {"type": "array", "items": image, "minItems": 1}
    form = {"type": "object", "required": [name], "properties": {name: images if several else image}}
    content = {_FORM.decode(): {"schema": form}}
    if not several:
        Image.init()
        heic = {"HEIF": "image/heic"}  # pillow-heif adds it to Image.MIME only when the first file is opened
        media_types = sorted((Image.MIME | heic)[name] for name in WEB_FORMATS)
        content |= {kind: {"schema": image} for kind in [*media_types, "application/octet-stream"]}
    request_id = {
        "name": "X-Request-ID",
        "in": "header",
        "description": "ID of the request in the response and in the log: at most 128 letters, digits and `_.:-`.",
        "schema": {"type": "string"},
    }
    return {"parameters": [request_id], "requestBody": {"required": True, "content": content}}


def _images(body: bytes, kind: bytes, name: bytes, max_files: int) -> list[Upload]:
    """Returns the files in the parts called `name` of a form (RFC 7578)."""
    found: list[Upload] = []
    heads: list[dict[bytes, bytes]] = []  # the headers of each part
    field = b""
    chunks: list[bytes] = []

    def begin() -> None:
        if len(heads) == max_files + _MAX_OTHER_PARTS:
            raise HTTPException(413, f"The form has more than {max_files + _MAX_OTHER_PARTS} parts.")
        heads.append({})
        chunks.clear()

    def read_name(data: bytes, start: int, end: int) -> None:
        nonlocal field
        field = data[start:end].strip().lower()

    def read_value(data: bytes, start: int, end: int) -> None:
        heads[-1][field] = data[start:end]

    def read_content(data: bytes, start: int, end: int) -> None:
        chunks.append(data[start:end])

    def end() -> None:
        options = parse_options_header(heads[-1].get(b"content-disposition", b""))[1]
        if options.get(b"name") == name and options.get(b"filename"):
            found.append(Upload(options[b"filename"].decode("utf-8", "replace"), b"".join(chunks)))

    boundary = parse_options_header(kind)[1].get(b"boundary")
    if not boundary or len(boundary) > 70:  # RFC 2046
        raise _malformed("the content type has no boundary of 1 to 70 characters")
    is_complete = False

    def complete() -> None:
        nonlocal is_complete
        is_complete = True

    try:
        MultipartParser(
            boundary,
            {
                "on_part_begin": begin,
                "on_header_field": read_name,
                "on_header_value": read_value,
                "on_part_data": read_content,
                "on_part_end": end,
                "on_end": complete,
            },
        ).write(body)
    except FormParserError as error:
        raise _malformed(str(error)) from error
    if not is_complete:
        raise _malformed("the closing boundary is missing")
    if not found:
        raise HTTPException(422, f"The form has no file in the part `{name.decode()}`.")
    if len(found) > max_files:
        raise HTTPException(413, f"The request has {len(found)} images; the limit is {max_files}.")
    return found


def _media_type(kind: bytes) -> bytes:
    return kind.partition(b";")[0].strip().lower()


def _malformed(reason: str) -> HTTPException:
    return HTTPException(400, f"The multipart form is malformed: {reason}.")


def _unsupported(kind: bytes) -> str:
    return (
        f"The content type {kind[:80].decode('latin-1')} is not supported." if kind else "The content type is missing."
    )
