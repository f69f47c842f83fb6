"""Bytes or a PIL image → RGB array of the model's size: the one definition that training and serving share.

Needs Pillow and NumPy only. Normalisation is not here: it is inside the model, whose input is uint8.
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


def open_image(
    source: bytes | str | PathLike[str] | Image.Image | NDArray[np.uint8],
    formats: tuple[str, ...] | None = WEB_FORMATS,
    quick_pixels: int | None = None,
) -> Image.Image:
    """Decodes one still picture completely, upright and without transparency.

    Args:
        source: Encoded bytes, a file, an image that is open already, or RGB pixels, uint8 [H, W, 3].
        formats: Accepted Pillow formats; None accepts every one that Pillow reads by itself.
        quick_pixels: Largest picture to decode; its dimensions are known before any pixel is.

    Returns:
        An RGB image. Transparent parts are laid over mid-grey, and the EXIF orientation is applied.

    Raises:
        UnsupportedImageError: The bytes are no picture of an accepted format.
        ImageError: The picture is damaged, empty, animated, or of absurd dimensions.
        LargeImageError: It has more than `quick_pixels`.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise ImageError(f"expected pixels as uint8 [H, W, 3], found {source.dtype} {list(source.shape)}")
        source = Image.fromarray(source)
    if isinstance(source, Image.Image):
        _check_dimensions(source)
        return _to_rgb(source)
    if formats is None:
        Image.init()
        formats = tuple(sorted(set(Image.OPEN) - {"EPS"}))  # for which Pillow would start another program
    if isinstance(source, bytes) and not source:
        raise ImageError("expected a picture, found an empty file (0 bytes)")
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a picture twice as large as its bound; the bounds that count are checked below.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
                _check_dimensions(image, quick_pixels)
                return _to_rgb(image)
    except UnidentifiedImageError as error:
        if not isinstance(source, bytes) and _is_empty(source):
            raise ImageError("expected a picture, found an empty file (0 bytes)") from error
        accepted = ", ".join(formats) if formats == WEB_FORMATS else "any format that Pillow reads"
        raise UnsupportedImageError(f"expected a picture ({accepted}), found something else") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"expected at most {MAX_PIXELS:,} pixels: {error}") from error
    except FileNotFoundError as error:
        raise ImageError("expected a picture, found no such file") from error
    except ImageError:
        raise
    # Pillow's decoders meet hostile bytes with almost any exception; each means the same to the caller.
    except Exception as error:
        raise ImageError(f"the picture is damaged or cut off ({error or type(error).__name__})") from error


def preprocess(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Scales an RGB image to the model's input.

    The picture is stretched to a square, as signs in GTSRB are nearly square. Bilinear filtering with a support that
    grows with the reduction (antialiasing), as Pillow defines it.

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
        raise LargeImageError(f"expected at most {quick_pixels:,} pixels, found {width} x {height}")
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageError(
            f"expected sides of {MIN_SIDE} to {MAX_SIDE:,} px and at most {MAX_PIXELS:,} pixels, "
            f"found {width} x {height}"
        )
    # Not n_frames, which walks through the whole file. MPO is what many phones write as .jpg: a JPEG with further
    # pictures behind the one that counts.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ImageError("expected one still picture, found several frames")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ImageError("expected whole numbers as pixels, found floating-point ones, whose white is not defined")
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else exif_transpose would copy the image for nothing
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey at 255 when it converts; keep the upper byte instead.
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
    with open(path, "rb") as file:  # noqa: PTH123 - a path-like of any kind
        return not file.read(1)
