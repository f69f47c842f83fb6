"""Preprocessing that training and serving share: bytes or a PIL image → RGB array of the model's input size.

This module needs only Pillow and NumPy, and for HEIC files pillow-heif, which is imported when the first one is opened.
The model itself normalises the pixels, so its input is uint8.
"""

import io
import os
import re
import stat
import warnings
from os import PathLike

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from src.mlops.errors import ImageError, LargeImageError, UnsupportedImageError
from src.mlops.io.avif import largest_frame

# JPEG 2000 is not accepted from strangers: its decoder needs 1.8 GB for a file of 172 bytes that states small code
# blocks for 5000 x 5000 px, and offers no limit.
WEB_FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MIN_SIDE = 4
MAX_SIDE = 10_000
MAX_PIXELS = 25_000_000
_EMPTY = "The file is empty (0 bytes)"
_HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
# Formats that people confuse with the supported ones: offset and value of their first bytes.
_OTHER_FORMATS = (
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "an EPS drawing"),
    (0, b"\xc5\xd0\xd3\xc6", "an EPS drawing"),
    (0, b"8BPS", "a Photoshop image (PSD)"),
    (0, b"\0\0\1\0", "an ICO icon"),
    (0, b"icns", "an ICNS icon"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (0, b"#?RADIANCE", "a Radiance HDR image"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"qoif", "a QOI image"),
    (0, b"gimp xcf", "a GIMP image (XCF)"),
    (0, b"FUJIFILMCCD-RAW", "a camera raw image (RAF)"),
    (0, b"IIU\0", "a camera raw image (RW2)"),
    (0, b"IIRO", "a camera raw image (ORF)"),
    (0, b"IIRS", "a camera raw image (ORF)"),
    (4, b"ftypcrx ", "a camera raw image (CR3)"),
    (4, b"ftypqt  ", "a QuickTime video"),
    (4, b"ftypisom", "an MP4 video"),
    (4, b"ftypmp4", "an MP4 video"),
    (8, b"CR\2\0", "a camera raw image (CR2)"),
    (0, b"II+\0", "a TIFF image with a pixel format or compression that Pillow does not read"),
    (0, b"MM\0+", "a TIFF image with a pixel format or compression that Pillow does not read"),
    (0, b"II*\0", "a TIFF image with a pixel format or compression that Pillow does not read"),
    (0, b"MM\0*", "a TIFF image with a pixel format or compression that Pillow does not read"),
)
_SVG = re.compile(rb"\s*(\xef\xbb\xbf)?(<\?xml|<!--|<!DOCTYPE svg|<svg)", re.IGNORECASE)
_TGA_END = b"TRUEVISION-XFILE.\0"
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # not a stuffed byte, a restart marker or a fill byte
_JPEG_END = b"\xff\xd9"
# Entropy-coded data that may follow the end of a truncated JPEG. No two patterns start with the same three bits. With
# restart markers in different orders, the decoder also reads the patterns in place of missing restart intervals.
_CONTINUATIONS = tuple(
    b"".join(pattern * 256 + bytes([0xFF, 0xD0 + (first + number) % 8]) for number in range(8))
    for first, pattern in ((0, b"\x00\x00"), (2, b"\x55\x55"), (4, b"\xaa\xaa"), (6, b"\xff\x00"))
)


def image_suffixes() -> tuple[str, ...]:
    """Returns the suffixes by which images in folders are recognised, in lower case and with the dot."""
    return (*Image.registered_extensions(), *_HEIF_SUFFIXES)


def open_image(
    source: bytes | str | PathLike[str] | Image.Image | NDArray[np.uint8],
    formats: tuple[str, ...] | None = WEB_FORMATS,
    quick_pixels: int | None = None,
) -> Image.Image:
    """Decodes one still image completely, upright and without transparency.

    Pixels with more than 8 bits are scaled by one rule. Black is 0, and white is

    - 65,535 for 16-bit integers, whatever values occur (4,095 for a 12-bit TIFF);
    - 255 for 32-bit integers if no value is larger, otherwise 65,535; larger values are rejected. A 16-bit image
      without a value above 255 is practically black, so this choice hides no visible image;
    - 1 for floating-point numbers; larger values are rejected, because 1.01 may be an inaccuracy or nearly black.

    Negative values and NaN are rejected. A JPEG without its end-of-image marker is accepted, but not one whose pixels
    depend on missing data. HEIC and MPO files can contain several images, which are not an animation; the primary image
    is used.

    Args:
        source: Encoded bytes, the path of a file, an open image, or RGB pixels, uint8 [H, W, 3].
        formats: Accepted Pillow formats; None accepts every format that Pillow reads without an external program.
        quick_pixels: Maximum number of pixels, checked before any pixel is decoded; None: only the general limits.

    Returns:
        An RGB image. Transparent parts are blended with mid-grey, and the EXIF orientation is applied.

    Raises:
        UnsupportedImageError: The bytes are not an image in an accepted format.
        ImageError: The image is corrupted, empty or animated, its dimensions or values are out of range, or the path is
            not a regular file.
        LargeImageError: The image has more than `quick_pixels` pixels.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise ImageError(f"Pixels must be uint8 [H, W, 3], but are {source.dtype} {list(source.shape)}")
        source = Image.fromarray(source)
    if isinstance(source, Image.Image):
        _check_dimensions(source)
        return _to_rgb(source)
    if formats is None:
        Image.init()
        formats = tuple(sorted({*Image.OPEN, "HEIF"} - {"EPS"}))  # Pillow starts Ghostscript for EPS
    if isinstance(source, bytes) and not source:
        raise ImageError(_EMPTY)
    if not isinstance(source, bytes):
        _require_regular_file(source)
    try:
        with warnings.catch_warnings():
            # Pillow warns about large images; _check_dimensions applies the limits of this project instead.
            warnings.simplefilter("ignore")
            with _identify(source, formats) as image:
                _check_dimensions(image, quick_pixels)
                _check_frames(image, source, quick_pixels)
                try:
                    image.load()
                except OSError:
                    if image.format != "JPEG":
                        raise
                    with _complete(_read(source)) as completed:
                        return _to_rgb(completed)
                return _to_rgb(image)
    except UnidentifiedImageError as error:
        if not isinstance(source, bytes) and not _read(source, 1):
            raise ImageError(_EMPTY) from error
        accepted = f"supported format ({', '.join(formats)})" if formats == WEB_FORMATS else "format that Pillow reads"
        if name := _name_of_format(source):
            raise UnsupportedImageError(
                f"The file is not an image in a {accepted}; it is {name}. Export it as PNG or JPEG"
            ) from error
        raise UnsupportedImageError(f"The file is not an image in a {accepted}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"The image must have at most {MAX_PIXELS:,} pixels: {error}") from error
    except FileNotFoundError as error:
        raise ImageError("The file does not exist") from error
    except ImageError:
        raise
    # For hostile bytes, Pillow's decoders raise almost any exception. All of them mean a corrupted image.
    except Exception as error:
        raise ImageError(f"The image is corrupted or truncated ({error or type(error).__name__})") from error


def preprocess(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Scales an RGB image to the model's input.

    The image is stretched to a square, because signs in GTSRB are nearly square. The filter is Pillow's bilinear one,
    whose support grows with the reduction (antialiasing).

    Args:
        image: RGB image of any size.
        size: Side of the result in pixels.

    Returns:
        uint8 array [size, size, 3].
    """
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _check_dimensions(image: Image.Image, quick_pixels: int | None = None) -> None:
    width, height = image.size
    if quick_pixels is not None and width * height > quick_pixels:
        raise LargeImageError(f"The image must have at most {quick_pixels:,} pixels, but is {width} x {height} px")
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageError(
            f"The image is {width} x {height} px; its sides must be {MIN_SIDE} to {MAX_SIDE:,} px, "
            f"with at most {MAX_PIXELS:,} pixels in total"
        )
    # n_frames would read the complete file. Phones write MPO files as .jpg (a JPEG followed by further images), and
    # HEIC files with several images. These are not animations; all images except the primary one are ignored.
    if getattr(image, "is_animated", False) and image.format not in {"MPO", "HEIF"}:
        raise ImageError("The image must be a still image, but has several frames")


def _identify(source: bytes | str | PathLike[str], formats: tuple[str, ...]) -> ImageFile.ImageFile:
    """Opens an image without decoding it. Registers Pillow's plugin for HEIF when the first such file is opened."""
    if "HEIF" in Image.OPEN or "HEIF" not in formats:
        return Image.open(_file(source), formats=formats)
    try:
        return Image.open(_file(source), formats=[name for name in formats if name != "HEIF"])
    except UnidentifiedImageError:
        start = _read(source, 12)
        if start[4:8] != b"ftyp" or start[8:] not in _HEIF_BRANDS:
            raise
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise UnsupportedImageError(
            "The file is a HEIC or HEIF image, which needs the package pillow-heif. Install it with "
            "`uv sync --group heic`, or export the image as PNG or JPEG"
        ) from error
    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return Image.open(_file(source), formats=formats)


def _check_frames(
    image: ImageFile.ImageFile, source: bytes | str | PathLike[str], quick_pixels: int | None = None
) -> None:
    """Checks what Pillow's `size` and `is_animated` do not show."""
    if image.format == "HEIF" and "sequence" in (image.get_format_mimetype() or ""):
        raise ImageError("The image must be a still image, but is an image sequence")
    if image.format != "AVIF":  # libheif rejects frames that are larger than the stated size, but libavif scales them
        return
    pixels = largest_frame(_read(source))
    if quick_pixels is not None and pixels > quick_pixels:
        raise LargeImageError(f"The image must have at most {quick_pixels:,} pixels, but its frames have {pixels:,}")
    if pixels > MAX_PIXELS:
        raise ImageError(
            f"The frames in the image can have {pixels:,} pixels; at most {MAX_PIXELS:,} are allowed. Export it as PNG "
            "or JPEG"
        )


def _complete(content: bytes) -> Image.Image:
    """Decodes a JPEG that may lack its end-of-image marker.

    Pillow does not report whether a JPEG is complete once the marker is there. So the data is continued in several
    ways, which must not change a single pixel.

    Raises:
        OSError: Image data is missing.
    """
    content = content.rstrip(b"\xff")  # a marker, or a stuffed byte, that was cut in two
    if not _has_all_scans(content):
        raise OSError("scans are missing")
    images = (
        Image.open(io.BytesIO(content + continuation + _JPEG_END), formats=["JPEG"]) for continuation in _CONTINUATIONS
    )
    completed = next(images)
    pixels = completed.tobytes()
    for other in images:
        if other.tobytes() != pixels:
            raise OSError("image data is missing")
    return completed


def _has_all_scans(content: bytes) -> bool:
    """Returns whether the scans of a JPEG announce all bits of all coefficients (ITU-T T.81, annexes B and G)."""
    missing = {(0, 0)}
    at = 2
    while marker := _JPEG_MARKER.search(content, at):
        kind, start = content[marker.end() - 1], marker.end()
        at = start + int.from_bytes(content[start : start + 2])
        segment = content[start + 2 : at]
        if 0xC0 <= kind <= 0xCF and kind not in {0xC4, 0xC8, 0xCC}:  # SOF: frame header
            missing = {(component, place) for component in segment[6::3] for place in range(64)}
        elif kind == 0xDA and len(segment) >= 6:  # SOS: scan header
            first, last, approximation = segment[-3:]
            if approximation & 15 == 0:  # down to the lowest bit
                missing -= {(component, place) for component in segment[1:-3:2] for place in range(first, last + 1)}
    return not missing


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "LAB":
        raise ImageError("The colour space L*a*b* is not supported. Convert the image to RGB")
    levels = _levels(image) if image.mode == "F" or image.mode.startswith("I") else None
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # avoids a copy of images that are upright
        image = ImageOps.exif_transpose(image)
    if levels:
        # Pillow's conversion would clip at 255 and round towards black.
        black, white = levels
        scaled = (np.asarray(image, dtype=np.float32) - black) * (255 / (white - black))
        image = Image.fromarray(np.rint(scaled).astype(np.uint8))
    if image.has_transparency_data:
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        opaque = Image.new("RGB", image.size, (128, 128, 128))
        opaque.paste(image, mask=image.getchannel("A"))
        return opaque
    return image.convert("RGB")


def _levels(image: Image.Image) -> tuple[float, float]:
    """Returns the black level and the white level of an image with more than 8 bits, by the rule of `open_image`."""
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    pixels = np.asarray(image)
    lowest, highest = pixels.min(), pixels.max()
    white = 1.0 if image.mode == "F" else 65_535.0
    if not (lowest >= 0 and highest <= white):  # also rejects NaN
        kind = "floating-point numbers" if image.mode == "F" else "integers"
        raise ImageError(
            f"The pixels are {kind} from {lowest:g} to {highest:g}, but must be from 0 (black) to {white:g} (white). "
            "Scale them to 0 to 255 and save the image as an 8-bit PNG"
        )
    # Pillow scales a PGM file by the white level that is in the file.
    if image.mode == "I" and image.format != "PPM" and highest <= 255:
        white = 255.0
    if image.mode.startswith("I;16") and tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,):
        white = 4095.0
    white_is_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    return (white, 0.0) if white_is_zero else (0.0, white)


def _require_regular_file(path: str | PathLike[str]) -> None:
    """Refuses what would block the process when it is read, such as a named pipe."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - any path-like object
    except OSError:
        return  # opening the file raises the same error
    if not stat.S_ISREG(mode):
        raise ImageError(
            f"The path is {'a folder' if stat.S_ISDIR(mode) else 'a pipe, a socket or a device'}, not a file"
        )


def _name_of_format(source: bytes | str | PathLike[str]) -> str | None:
    """Returns the name of an unsupported format if the bytes show that it is one."""
    start = _read(source, 4096)
    for offset, value, name in _OTHER_FORMATS:
        if start.startswith(value, offset):
            return name
    if _SVG.match(start) and b"<svg" in start:
        return "an SVG drawing"
    return "a TGA image" if _read(source).endswith(_TGA_END) else None


def _file(source: bytes | str | PathLike[str]) -> io.BytesIO | str | PathLike[str]:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _read(source: bytes | str | PathLike[str], size: int | None = None) -> bytes:
    if isinstance(source, bytes):
        return source[:size]
    with open(source, "rb") as file:  # noqa: PTH123 - any path-like object
        return file.read(-1 if size is None else size)
