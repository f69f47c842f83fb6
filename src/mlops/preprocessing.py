"""Preprocessing that training and serving share: bytes or a PIL image → RGB array of the model's input size.

This module needs only Pillow and NumPy. The model itself normalises the pixels, so its input is uint8.
"""

import io
import warnings
from os import PathLike

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from src.mlops.errors import ImageError, LargeImageError, UnsupportedImageError

WEB_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MIN_SIDE = 4
MAX_SIDE = 10_000
MAX_PIXELS = 25_000_000
_EMPTY = "The file is empty (0 bytes)"


def open_image(
    source: bytes | str | PathLike[str] | Image.Image | NDArray[np.uint8],
    formats: tuple[str, ...] | None = WEB_FORMATS,
    quick_pixels: int | None = None,
) -> Image.Image:
    """Decodes one still image completely, upright and without transparency.

    Args:
        source: Encoded bytes, the path of a file, an open image, or RGB pixels, uint8 [H, W, 3].
        formats: Accepted Pillow formats; None accepts every format that Pillow reads without an external program.
        quick_pixels: Maximum number of pixels, checked before any pixel is decoded; None: only the general limits.

    Returns:
        An RGB image. Transparent parts are blended with mid-grey, and the EXIF orientation is applied.

    Raises:
        UnsupportedImageError: The bytes are not an image in an accepted format.
        ImageError: The image is corrupted, empty or animated, or its dimensions are out of range.
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
        formats = tuple(sorted(set(Image.OPEN) - {"EPS"}))  # Pillow starts Ghostscript for EPS
    if isinstance(source, bytes) and not source:
        raise ImageError(_EMPTY)
    try:
        with warnings.catch_warnings():
            # Pillow warns about large images; _check_dimensions applies the limits of this project instead.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
                _check_dimensions(image, quick_pixels)
                return _to_rgb(image)
    except UnidentifiedImageError as error:
        if not isinstance(source, bytes) and _is_empty(source):
            raise ImageError(_EMPTY) from error
        accepted = f"supported format ({', '.join(formats)})" if formats == WEB_FORMATS else "format that Pillow reads"
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
    # n_frames would read the complete file. Many phones write MPO files as .jpg: a JPEG followed by further images,
    # which are ignored.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ImageError("The image must be a still image, but has several frames")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ImageError("Pixels must be integers, but are floating-point numbers, for which no white level is defined")
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # avoids a copy of images that are upright
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow's conversion clips 16-bit grey at 255, so scale the levels first.
        levels = np.asarray(image, dtype=np.float32)
        image = Image.fromarray(np.clip(levels / 257, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        opaque = Image.new("RGB", image.size, (128, 128, 128))
        opaque.paste(image, mask=image.getchannel("A"))
        return opaque
    return image.convert("RGB")


def _is_empty(path: str | PathLike[str]) -> bool:
    with open(path, "rb") as file:  # noqa: PTH123 - any path-like object
        return not file.read(1)
