"""Preprocessing of valid images in many formats, and of invalid files."""

import ast
import base64
import os
import re
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from src.mlops import ROOT
from src.mlops.errors import ImageError, LargeImageError, UnsupportedImageError
from src.mlops.preprocessing import MAX_PIXELS, WEB_FORMATS, image_suffixes, open_image, preprocess
from tests.helpers.images import encode, make_image, png_header


@pytest.mark.parametrize("kind", WEB_FORMATS)
def test_formats(kind: str) -> None:
    array = preprocess(open_image(encode(make_image(2), kind)), 48)
    assert (array.dtype, array.shape) == (np.uint8, (48, 48, 3))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_modes(mode: str) -> None:
    kind = "TIFF" if mode in {"CMYK", "YCbCr"} else "PNG"
    image = open_image(encode(make_image(2).convert(mode), kind))
    assert (image.mode, image.size) == ("RGB", (30, 30))


def tiff(pixels: NDArray[Any], **tags: int) -> bytes:
    return encode(Image.fromarray(pixels), "TIFF", tiffinfo={int(tag[1:]): value for tag, value in tags.items()})


LEVELS = np.linspace(0, 65535, 30 * 30).reshape(30, 30)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(encode(Image.fromarray(LEVELS.astype(np.uint16)), "PNG"), LEVELS / 257, id="16-bit PNG"),
        pytest.param(encode(Image.fromarray(LEVELS.astype(np.uint16)), "JPEG2000"), LEVELS / 257, id="16-bit JPEG2000"),
        pytest.param(encode(Image.fromarray(LEVELS.astype(np.uint16)), "PPM"), LEVELS / 257, id="16-bit PGM"),
        pytest.param(tiff(LEVELS.astype(np.uint16)), LEVELS / 257, id="16-bit TIFF"),
        pytest.param(tiff((LEVELS // 257).astype(np.uint16)), LEVELS / 257**2, id="dark 16-bit TIFF"),
        pytest.param(
            encode(Image.fromarray((LEVELS // 257).astype(np.uint16)), "PPM"), LEVELS / 257**2, id="dark 16-bit PGM"
        ),
        pytest.param(tiff(LEVELS.astype(np.uint16), t262=0), 255 - LEVELS / 257, id="16-bit TIFF, white is zero"),
        pytest.param(tiff(LEVELS.astype(np.int32)), LEVELS / 257, id="32-bit TIFF with 16-bit values"),
        pytest.param(tiff((LEVELS / 257).astype(np.int32)), LEVELS / 257, id="32-bit TIFF with 8-bit values"),
        pytest.param(tiff((LEVELS / 65535).astype(np.float32)), LEVELS / 257, id="float TIFF"),
    ],
)
def test_deep_pixels_are_scaled_by_one_rule(content: bytes, expected: NDArray[np.float64]) -> None:
    image = np.asarray(open_image(content, formats=None))
    assert image.shape == (30, 30, 3)
    np.testing.assert_allclose(image[..., 0], expected, atol=1)


def test_8_bit_values_in_other_types_give_the_same_pixels() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.asarray(open_image(encode(Image.fromarray(grey), "PNG")))
    for other in (grey.astype(np.int32), grey.astype(np.uint16) * 257, grey.astype(np.float32) / 255):
        np.testing.assert_array_equal(np.asarray(open_image(tiff(other))), expected)
        np.testing.assert_array_equal(np.asarray(open_image(Image.fromarray(other))), expected)


def test_white_in_a_12_bit_tiff_is_4095() -> None:
    # Pillow writes no 12-bit files: two pixels in three bytes, so a row of ten pixels has 15 bytes.
    entries = {256: 10, 257: 10, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: 10, 279: 150}
    header = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    header += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items()) + bytes(4)
    assert open_image(header + b"\xff" * 150).getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((30, 30), 70_000, np.int32), "integers from 70000 to 70000, but must be from 0 .* to 65535 "),
        (np.full((30, 30), -1, np.int32), "integers from -1 to -1.* 8-bit PNG"),
        (np.full((30, 30), 1.01, np.float32), r"floating-point numbers from 1.01 to 1.01, .* to 1 \(white\)"),
        (np.full((30, 30), -0.1, np.float32), "from -0.1"),
        (np.full((30, 30), np.nan, np.float32), "from nan to nan"),
        (np.full((30, 30), np.inf, np.float32), "to inf"),
    ],
)
def test_values_out_of_range(pixels: NDArray[Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(tiff(pixels))
    with pytest.raises(ImageError, match=message):
        open_image(tiff(pixels), formats=None)


def test_lab_colours_are_rejected() -> None:
    with pytest.raises(ImageError, match=r"L\*a\*b\*.*Convert"):
        open_image(encode(Image.new("LAB", (30, 30)), "TIFF"))


def test_transparent_parts_become_grey() -> None:
    image = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    assert open_image(encode(image, "PNG")).getpixel((5, 5)) == (128, 128, 128)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "AVIF", "HEIF"])
def test_exif_orientation_is_applied_once(kind: str) -> None:
    upright = Image.new("RGB", (20, 40))
    upright.paste((255, 255, 255), (0, 0, 20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90 degrees clockwise to see it upright"
    stored = encode(upright.transpose(Image.Transpose.ROTATE_90), kind, exif=exif.tobytes())
    assert open_image(stored).size == (20, 40)
    np.testing.assert_allclose(np.asarray(open_image(stored)), np.asarray(upright), atol=12)


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
    with pytest.raises(UnsupportedImageError, match=r"not an image .*\(AVIF, BMP"):
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


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"%PDF-1.7\n", "a PDF document"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg/>", "an SVG drawing"),
        (b"8BPS\0\1", "a Photoshop image"),
        (encode(make_image(0), "ICO"), "an ICO icon"),
        (encode(make_image(0), "EPS"), "an EPS drawing"),
        (encode(make_image(0), "TGA") + bytes(8) + b"TRUEVISION-XFILE.\0", "a TGA image"),
        (encode(make_image(0), "JPEG2000"), "a JPEG 2000 image"),
        (b"\xff\x0a\0\0", "a JPEG XL image"),
        (b"\0\0\0\x18ftypcrx ", r"a camera raw image \(CR3\)"),
        (b"\0\0\0\x18ftypqt  ", "a QuickTime video"),
        (
            tiff(LEVELS.astype(np.uint16)).replace(b"\x02\x01\x03\0\1\0\0\0\x10", b"\x02\x01\x03\0\1\0\0\0\x40"),
            "a TIFF",
        ),
    ],
)
def test_unsupported_formats_are_named(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(content)
    for source in (content, tmp_path / "image"):
        with pytest.raises(UnsupportedImageError, match=f"AVIF, BMP.* it is {name}.*Export it as PNG or JPEG"):
            open_image(source)


class TestTruncatedJpeg:
    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 1}])
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    def test_only_the_missing_end_marker_is_tolerated(self, mode: str, options: dict[str, Any], tmp_path: Path) -> None:
        # In an image of 65 px, most of the last blocks is outside of the image.
        content = encode(make_image(0, side=65).convert(mode), "JPEG", **options)
        pixels = np.asarray(open_image(content))
        for cut in (1, 2):
            (tmp_path / "image.jpg").write_bytes(content[:-cut])
            np.testing.assert_array_equal(np.asarray(open_image(content[:-cut])), pixels)
            np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "image.jpg")), pixels)
        refused = 0
        cuts = [*range(3, 80), *range(80, len(content) - 1, 7)]
        for cut in cuts:
            try:
                found = np.asarray(open_image(content[:-cut]))
            except ImageError:
                refused += 1
            else:  # the last byte of a progressive JPEG may contain no information
                np.testing.assert_array_equal(found, pixels)
        assert refused >= len(cuts) - 1

    def test_orientation_and_limits_still_apply(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        content = encode(make_image(0, side=64).crop((0, 0, 64, 32)), "JPEG", exif=exif)
        assert open_image(content[:-2]).size == (32, 64)


class TestAvifAndHeif:
    def test_the_sizes_of_avif_frames_are_checked_before_decoding(self) -> None:
        content = encode(Image.new("RGB", (5200, 5200)), "AVIF", speed=10)
        stated = content.replace(struct.pack(">II", 5200, 5200), struct.pack(">II", 30, 30))
        assert stated != content
        with pytest.raises(ImageError, match="frames in the image can have 27,040,000 pixels"):
            open_image(stated)
        with pytest.raises(LargeImageError, match="27,040,000"):
            open_image(stated, quick_pixels=65_536)

    def test_the_frames_of_heif_images_are_not_larger_than_stated(self) -> None:
        content = encode(Image.new("RGB", (1024, 1024)), "HEIF")
        with pytest.raises(ImageError, match="1024x1024"):
            open_image(content.replace(struct.pack(">II", 1024, 1024), struct.pack(">II", 30, 30)))

    def test_large_images_are_rejected(self) -> None:
        for kind in ("AVIF", "HEIF"):
            content = encode(make_image(0, side=300), kind)
            with pytest.raises(LargeImageError):
                open_image(content, quick_pixels=65_536)
            with pytest.raises(ImageError, match="20000 x 300"):
                open_image(content.replace(struct.pack(">II", 300, 300), struct.pack(">II", 20_000, 300)))

    def test_animated_avif_is_rejected(self) -> None:
        with pytest.raises(ImageError, match="several frames"):
            open_image(encode(make_image(0), "AVIF", save_all=True, append_images=[make_image(1)]))

    def test_heif_collections_give_the_primary_image_and_sequences_are_rejected(self) -> None:
        others = [make_image(1, side=40)]
        content = encode(make_image(0), "HEIF", save_all=True, append_images=others, primary_index=1)
        assert open_image(content).size == (40, 40)
        with pytest.raises(ImageError, match="sequence"):
            open_image(content.replace(b"ftypheic", b"ftyphevc"))

    @pytest.mark.parametrize("formats", ["WEB_FORMATS", "None"])
    def test_the_package_is_imported_with_the_first_file_only(self, formats: str, tmp_path: Path) -> None:
        (tmp_path / "a.heic").write_bytes(encode(make_image(0), "HEIF"))
        (tmp_path / "a.png").write_bytes(encode(make_image(0), "PNG"))
        script = f"""if True:
            import sys
            from src.mlops.preprocessing import WEB_FORMATS, open_image
            open_image(r"{tmp_path}/a.png", {formats})
            assert "pillow_heif" not in sys.modules
            print(open_image(r"{tmp_path}/a.heic", {formats}).size)"""
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout == "(30, 30)\n"

    def test_without_the_package_the_error_names_the_format(self, tmp_path: Path) -> None:
        (tmp_path / "a.heic").write_bytes(encode(make_image(0), "HEIF"))
        script = f"""if True:
            import sys
            sys.modules["pillow_heif"] = None
            from src.mlops.preprocessing import open_image
            try:
                open_image(r"{tmp_path}/a.heic")
            except Exception as error:
                print(type(error).__name__, error)"""
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        assert re.match("UnsupportedImageError .*HEIC.*pillow-heif.*export the image as PNG or JPEG", done.stdout)

    def test_suffixes(self) -> None:
        assert {".avif", ".heic", ".heif", ".jp2", ".j2k", ".png", ".jpg", ".ppm", ".webp"} <= set(image_suffixes())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_paths_that_are_not_files_are_rejected_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path / "link.png", Path("/dev/zero")):
        with pytest.raises(ImageError, match="pipe, a socket or a device"):
            open_image(path)
    with pytest.raises(ImageError, match="folder"):
        open_image(tmp_path)


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
    for kind in WEB_FORMATS:
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
    # These modules draw images, augment or corrupt them, or create overlays or small copies for people.
    allowed = {
        "preprocessing.py",
        "surface.py",
        "camera.py",
        "contact_sheet.py",
        "out_of_distribution.py",
        "outliers.py",
        "augment.py",
        "corruptions.py",
        "explain.py",
        "images.py",
    }
    for path in (ROOT / "src").rglob("*.py"):
        if path.name not in allowed:
            names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
            assert not names & resizing, path


def test_preprocessing_needs_only_pillow_and_numpy() -> None:
    tree = ast.parse(Path(ROOT / "src/mlops/preprocessing.py").read_text())
    # pillow_heif is imported in a function, when the first HEIC file is opened.
    roots = {
        name.split(".")[0]
        for node in tree.body
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert roots <= {"io", "os", "re", "stat", "warnings", "numpy", "PIL", "src", "collections"}
