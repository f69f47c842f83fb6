"""Corrupts images as weather, cameras and transmission do, with five severities.

Follows Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
2019, with corruptions that occur on the road. All functions work on batches, uint8 [N, S, S, 3].
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Pixels = NDArray[np.uint8]
Corruption = Callable[[Pixels, int, np.random.Generator], Pixels]
SEVERITIES = range(1, 6)


def _pixels(values: NDArray[np.floating]) -> Pixels:
    return np.asarray(np.clip(values + 0.5, 0, 255), np.uint8)


def _blur(images: Pixels, severity: int, _: np.random.Generator) -> Pixels:
    sigma = 0.4 * severity
    return _pixels(ndimage.gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0)))


def _motion(images: Pixels, severity: int, _: np.random.Generator) -> Pixels:
    return _pixels(ndimage.uniform_filter1d(images.astype(np.float32), 1 + 2 * severity, axis=2))


def _fog(images: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    count, side = images.shape[:2]
    clouds = ndimage.zoom(rng.random((count, 5, 5)), (1, side / 5, side / 5), order=1)[..., None]
    share = 0.16 * severity * (0.7 + 0.3 * clouds)
    return _pixels(images * (1 - share) + 215 * share)


def _streaks(images: Pixels, rng: np.random.Generator, share: float, length: int, width: float) -> NDArray[np.float32]:
    """Returns the opacity of falling drops or flakes, 0 (none) to 1, float32 [N, S, S, 1]."""
    drops = (rng.random(images.shape[:3]) < share).astype(np.float32)
    drawn = ndimage.uniform_filter1d(drops, length, axis=1) * length
    return np.asarray(np.minimum(ndimage.gaussian_filter(drawn, (0, width, width)) * (1 + 4 * width), 1)[..., None])


def _rain(images: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    drops = _streaks(images, rng, 0.004 * severity, 9, 0.4)
    dull = images * (1 - 0.07 * severity)
    return _pixels(dull * (1 - 0.7 * drops) + 190 * 0.7 * drops)


def _snow(images: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    flakes = _streaks(images, rng, 0.008 * severity, 3, 0.6)
    return _pixels(images * (1 - 0.9 * flakes) + 245 * 0.9 * flakes)


def _dark(images: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    light = images * (0.55, 0.4, 0.28, 0.18, 0.1)[severity - 1]
    return _pixels(light + rng.normal(0, 1.5, images.shape))


def _glare(images: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Adds a light source with a bright halo."""
    count, side = images.shape[:2]
    y, x = np.mgrid[:side, :side]
    middle = rng.uniform(0.1, 0.9, (2, count, 1, 1)) * side
    halo = np.exp(-((y - middle[0]) ** 2 + (x - middle[1]) ** 2) / (0.12 * side * (1 + 0.45 * severity)) ** 2)
    return _pixels(images + 255 * (0.5 + 0.1 * severity) * halo[..., None])


def _noise(images: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    return _pixels(images + rng.normal(0, 8 * severity, images.shape))


def _jpeg(images: Pixels, severity: int, _: np.random.Generator) -> Pixels:
    quality = (50, 30, 18, 10, 6)[severity - 1]

    def compressed(image: Pixels) -> Pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer))

    return np.stack([compressed(image) for image in images])


def _occlusion(images: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Covers 6 to 30 % of each image with a grey square."""
    side = images.shape[1]
    length = round(side * (0.06 * severity) ** 0.5)
    covered = images.copy()
    for image, (top, left) in zip(covered, rng.integers(0, side - length + 1, (len(images), 2)), strict=True):
        image[top : top + length, left : left + length] = 110
    return covered


def _moved(images: Pixels, matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> Pixels:
    """Moves pixels: position p of the result is position `matrix @ p + shift` of the image, relative to its centre."""
    middle = (np.array(images.shape[1:3]) - 1) / 2
    whole = np.eye(4)
    whole[1:3, 1:3] = matrix
    offset = np.array([0, *(middle - matrix @ middle + shift), 0])
    return _pixels(ndimage.affine_transform(images.astype(np.float32), whole, offset, order=1, mode="nearest"))


def _shift(images: Pixels, severity: int, _: np.random.Generator) -> Pixels:
    """Moves half of the images to the lower right and the other half to the upper left."""
    way = 0.04 * severity * images.shape[1]
    return _both_ways(images, lambda half, sign: _moved(half, np.eye(2), np.full(2, sign * way)))


def _scale(images: Pixels, severity: int, _: np.random.Generator) -> Pixels:
    """Shrinks the object to at most half its size, as if the crop were too large."""
    return _moved(images, np.eye(2) * (1 + 0.2 * severity), np.zeros(2))


def _rotation(images: Pixels, severity: int, _: np.random.Generator) -> Pixels:
    def turned(half: Pixels, sign: int) -> Pixels:
        angle = sign * np.radians(8 * severity)
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return _moved(half, matrix, np.zeros(2))

    return _both_ways(images, turned)


def _both_ways(images: Pixels, change: Callable[[Pixels, int], Pixels]) -> Pixels:
    """Changes the even images with the sign 1 and the odd images with the sign -1."""
    changed = np.empty_like(images)
    for start, sign in ((0, 1), (1, -1)):
        changed[start::2] = change(images[start::2], sign)
    return changed


CORRUPTIONS: dict[str, Corruption] = {
    "blur": _blur,
    "motion": _motion,
    "fog": _fog,
    "rain": _rain,
    "snow": _snow,
    "dark": _dark,
    "glare": _glare,
    "noise": _noise,
    "JPEG": _jpeg,
    "occlusion": _occlusion,
    "shift": _shift,
    "scale": _scale,
    "rotation": _rotation,
}


def corrupt(images: Pixels, name: str, severity: int, seed: int = 0) -> Pixels:
    """Corrupts a batch.

    Args:
        images: uint8 [N, S, S, 3].
        name: A key of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: Seed of the random numbers.

    Returns:
        uint8 [N, S, S, 3].
    """
    return CORRUPTIONS[name](images, severity, np.random.default_rng([seed, severity]))
