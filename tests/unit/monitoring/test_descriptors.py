"""Tests the descriptors with images whose values are known, and the quality of JPEG files."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from src.mlops.monitoring.descriptors import Descriptors, describe_images
from src.mlops.monitoring.jpeg import jpeg_quality
from tests.helpers.images import encode, make_image

SIDE = 48


def flat(*rgb: int) -> np.ndarray:
    return np.full((1, SIDE, SIDE, 3), rgb, np.uint8)


def scene(count: int = 4) -> np.ndarray:
    """Returns smooth images with a few edges."""
    rng = np.random.default_rng(5)
    blocks = rng.integers(40, 216, (count, 6, 6, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return ndimage.gaussian_filter(blocks.astype(np.float32), (0, 1, 1, 0)).astype(np.uint8)


def test_images_of_one_colour() -> None:
    for rgb, brightness, saturation, red_green, yellow_blue in [
        ((0, 0, 0), 0, 0, 0, 0),
        ((255, 255, 255), 1, 0, 0, 0),
        ((128, 128, 128), 128 / 255, 0, 0, 0),
        ((255, 0, 0), 0.299, 1, 1, 0.5),
        ((0, 0, 255), 0.114, 1, 0, -1),
        ((200, 100, 50), (0.299 * 200 + 0.587 * 100 + 0.114 * 50) / 255, 0.75, 100 / 255, 100 / 255),
    ]:
        found = describe_images(flat(*rgb))
        assert found.brightness == pytest.approx(brightness, abs=0.004)
        assert found.saturation == pytest.approx(saturation)
        assert (found.cast_red_green, found.cast_yellow_blue) == (pytest.approx(red_green), pytest.approx(yellow_blue))
        assert found.contrast == found.sharpness == found.noise == found.colour_noise == 0


def test_contrast_is_the_standard_deviation_of_the_luma() -> None:
    half = flat(0, 0, 0)
    half[:, :, SIDE // 2 :] = 255
    assert describe_images(half).contrast == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("sigma", [2.0, 5.0, 12.0])
def test_noise_is_estimated_in_grey_levels(sigma: float) -> None:
    rng = np.random.default_rng(1)
    grey = rng.normal(128, sigma, (20, SIDE, SIDE, 1)).repeat(3, axis=3)
    assert describe_images(np.rint(grey).astype(np.uint8)).noise.mean() == pytest.approx(sigma, rel=0.05)
    colour = rng.normal(128, sigma, (20, SIDE, SIDE, 3))
    assert describe_images(np.rint(colour).astype(np.uint8)).colour_noise.mean() == pytest.approx(
        np.sqrt(2) * sigma, rel=0.05
    )


def test_blur_changes_the_sharpness_and_contrast_does_not() -> None:
    images = scene()
    plain = describe_images(images)
    blurred = ndimage.gaussian_filter(images.astype(np.float32), (0, 1.2, 1.2, 0)).astype(np.uint8)
    assert (describe_images(blurred).sharpness < 0.8 * plain.sharpness).all()
    dull = (images * 0.5 + 64).astype(np.uint8)
    assert describe_images(dull).sharpness == pytest.approx(plain.sharpness, rel=0.1)
    assert describe_images(dull).contrast == pytest.approx(plain.contrast / 2, rel=0.02)


@pytest.mark.parametrize("side", [3, 24, 48, 97])
def test_each_image_is_described_alone(side: int) -> None:
    images = np.random.default_rng(side).integers(0, 256, (70, side, side, 3), np.uint8)
    together = describe_images(images)
    alone = [describe_images(images[place : place + 1]) for place in range(70)]
    for name in Descriptors._fields:
        values = getattr(together, name)
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values, np.concatenate([getattr(one, name) for one in alone]), rtol=1e-5)


def test_no_images() -> None:
    assert [len(values) for values in describe_images(np.empty((0, 48, 48, 3), np.uint8))] == [0] * 8


@pytest.mark.parametrize("shape", [(1, 48, 48), (1, 48, 48, 4), (1, 2, 48, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        describe_images(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="float32"):
        describe_images(np.zeros((1, 48, 48, 3), np.float32))  # type: ignore[arg-type]


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
