"""Preprocessing of valid images in many formats, and of invalid files."""

import ast
import base64
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.mlops import ROOT
from src.mlops.errors import ImageError, UnsupportedImageError
from src.mlops.preprocessing import MAX_PIXELS, open_image, preprocess
from tests.helpers.images import encode, make_image, png_header


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_formats(kind: str) -> None:
    array = preprocess(open_image(encode(make_image(2), kind)), 48)
    assert (array.dtype, array.shape) == (np.uint8, (48, 48, 3))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_modes(mode: str) -> None:
    kind = "TIFF" if mode in {"CMYK", "YCbCr"} else "PNG"
    image = open_image(encode(make_image(2).convert(mode), kind))
    assert (image.mode, image.size) == ("RGB", (30, 30))


def test_16_bit_grey_keeps_its_levels() -> None:
    levels = np.linspace(0, 65535, 30 * 30).reshape(30, 30).astype(np.uint16)
    grey = np.asarray(open_image(encode(Image.fromarray(levels), "PNG")))[..., 0]
    np.testing.assert_allclose(grey, levels / 257, atol=1)


def test_transparent_parts_become_grey() -> None:
    image = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    assert open_image(encode(image, "PNG")).getpixel((5, 5)) == (128, 128, 128)


def test_exif_orientation_is_applied() -> None:
    upright = Image.new("RGB", (20, 40))
    upright.paste((255, 255, 255), (0, 0, 20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90 degrees clockwise to see it upright"
    stored = encode(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    assert open_image(stored).size == (20, 40)
    np.testing.assert_array_equal(np.asarray(open_image(stored)), np.asarray(upright))


def test_the_first_image_of_an_mpo_file_is_used() -> None:
    content = encode(make_image(0), "MPO", save_all=True, append_images=[make_image(1)])
    assert open_image(content).size == (30, 30)


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0" * 1000,
        b"GIF",
        encode(make_image(0), "ICO"),
    ],
)
def test_unsupported_files(content: bytes) -> None:
    with pytest.raises(UnsupportedImageError, match=r"not an image .*\(BMP, GIF"):
        open_image(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (encode(make_image(0), "PNG")[:200], "corrupted"),
        (encode(make_image(0, side=200), "JPEG")[:600], "corrupted"),
        (png_header(50_000, 50_000), "pixels"),
        (png_header(20_000, 10), "20000 x 10"),
        (png_header(6_000, 6_000), f"6000 x 6000.*at most {MAX_PIXELS:,} pixels"),
        (png_header(3, 3), "3 x 3"),
        (png_header(0, 10), "not an image"),
        (encode(make_image(0), "GIF", save_all=True, append_images=[make_image(1)]), "several frames"),
    ],
)
def test_images_that_cannot_be_used(content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(content)


def test_floating_point_pixels_are_rejected() -> None:
    with pytest.raises(ImageError, match="floating-point"):
        open_image(encode(Image.fromarray(np.ones((30, 30), np.float32)), "TIFF"))


# Found by fuzzing: the EXIF data makes Pillow raise struct.error, which is not a ValueError.
HOSTILE_EXIF = base64.b64decode(
    "UklGRsgAAABXRUJQVlA4WAoAAAAIAAAADwAADwAAVlA4IHwAAADQAgCdASoQABAAAUAmJZQCdMn9gYFkZ/9Aimw/rzcUAPqD0uaN"
    "nNDVJg4SW8xiE6dBTqtdzYXS5IXDqGA0eMqtV+iN+RwOUud9WtJyuw63HZXm3nnVfQCTmzaFch+UIICzRA3o/aRe0fzOC4hxr0TP"
    "If/5DNSD+lqCDgAARVhJRiYAAABNTQAqAAAACAACAQEAAgAAAAJ4AAAAARIAAwAAAAEABgAAAAAAAA=="
)


def test_malicious_exif_data_raises_an_image_error() -> None:
    with pytest.raises(ImageError, match="corrupted"):
        open_image(HOSTILE_EXIF)


def test_mutated_images_raise_only_image_errors() -> None:
    rng = np.random.default_rng(0)
    for kind in ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"):
        good = np.frombuffer(encode(make_image(0), kind), np.uint8)
        for _ in range(150):
            bad = good.copy()
            places = rng.integers(0, len(bad), rng.integers(1, 12))
            bad[places] = rng.integers(0, 256, len(places))
            with suppress(ImageError):
                preprocess(open_image(bad[: rng.integers(1, len(bad) + 1)].tobytes()), 24)


def test_no_other_module_scales_images() -> None:
    """Serving would differ from training if another module also preprocessed images."""
    resizing = {"resize", "thumbnail", "interpolate", "reduce", "zoom", "affine_transform", "grid_sample"}
    # These modules draw images, augment or corrupt them, or create overlays for people.
    allowed = {
        "preprocessing.py",
        "drawing.py",
        "camera.py",
        "out_of_distribution.py",
        "augment.py",
        "corruptions.py",
        "explain.py",
    }
    for path in (ROOT / "src").rglob("*.py"):
        if path.name not in allowed:
            names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
            assert not names & resizing, path


def test_preprocessing_needs_only_pillow_and_numpy() -> None:
    tree = ast.parse(Path(ROOT / "src/mlops/preprocessing.py").read_text())
    roots = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert roots <= {"io", "os", "warnings", "numpy", "PIL", "src", "collections"}
