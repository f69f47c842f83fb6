"""Tests the estimated quality of JPEG files."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from src.mlops.monitoring.jpeg import jpeg_quality
from tests.helpers.images import encode, make_image


@pytest.mark.parametrize("quality", [1, 5, 25, 49, 50, 75, 92, 100])
def test_quality_of_a_jpeg_file(quality: int) -> None:
    image = make_image(1, side=60)
    for options in ({}, {"progressive": True}, {"exif": b"Exif\0\0" + b"x" * 5000}, {"comment": b"y" * 300}):
        assert jpeg_quality(encode(image, "JPEG", quality=quality, **options)) == quality


def test_quality_of_a_jpeg_file_with_its_own_tables() -> None:
    tables = [[max(1, 3 * value // 4) for value in range(1, 65)]] * 2
    assert 1 <= (jpeg_quality(encode(make_image(1), "JPEG", qtables=tables)) or 0) <= 100


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_other_formats_have_no_quality(kind: str) -> None:
    assert jpeg_quality(encode(make_image(1), kind)) is None


@given(st.binary(max_size=300))
def test_any_bytes_have_a_quality_or_none(content: bytes) -> None:
    for hostile in (content, b"\xff\xd8\xff\xdb" + content, b"\xff\xd8" + content, b"\xff\xd8" + b"\xff" * 500):
        assert jpeg_quality(hostile) in {None, *range(1, 101)}


def test_a_truncated_jpeg_file_has_a_quality_or_none() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=80)
    found = [jpeg_quality(file.getvalue()[:size]) for size in range(len(file.getvalue()))]
    assert set(found) == {None, 80}
