"""Shifts of a stream of images: corruptions, a new camera, another mix of classes, and unknown signs.

Everything works on preprocessed images, uint8 [N, S, S, 3], as the model sees them.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from src.mlops.evaluation.corruptions import CORRUPTIONS, corrupt

Pixels = NDArray[np.uint8]
SEVERITIES = (1, 3, 5)
STRENGTHS = (1, 2, 3)
CAMERAS = ("white balance", "gamma", "sharpening", "resolution")


def shifted(images: Pixels, name: str, strength: int, seed: int = 0) -> Pixels:
    """Returns the images as another camera or bad weather would show them.

    Args:
        images: uint8 [N, S, S, 3].
        name: A corruption, or one of `CAMERAS`.
        strength: One of `SEVERITIES` for a corruption, or of `STRENGTHS` for a camera.
        seed: Seed of the random numbers.
    """
    if name in CORRUPTIONS:
        return corrupt(images, name, strength, seed)
    return _CAMERA[name](images, strength)


def all_shifts() -> list[tuple[str, int]]:
    """Returns the name and the strength of each shift of the image itself."""
    return [(name, level) for name in CORRUPTIONS for level in SEVERITIES] + [
        (name, level) for name in CAMERAS for level in STRENGTHS
    ]


def _white_balance(images: Pixels, strength: int) -> Pixels:
    """Makes images warmer: more red and less blue, by 5, 12 or 25 %."""
    gain = (0.05, 0.12, 0.25)[strength - 1]
    return _pixels(images * np.array([1 + gain, 1, 1 - gain]))


def _gamma(images: Pixels, strength: int) -> Pixels:
    """Lifts the midtones."""
    return _pixels(255 * (images / 255) ** (0.9, 0.75, 0.55)[strength - 1])


def _sharpening(images: Pixels, strength: int) -> Pixels:
    """Adds 30, 70 or 150 % of the difference to a blurred image (unsharp mask), as cameras do."""
    light = images.astype(np.float32)
    return _pixels(light + (0.3, 0.7, 1.5)[strength - 1] * (light - ndimage.gaussian_filter(light, (0, 1, 1, 0))))


def _resolution(images: Pixels, strength: int) -> Pixels:
    """Reduces the images to 75, 50 or 33 % of their side and enlarges them again."""
    side = images.shape[1]
    small = round(side * (0.75, 0.5, 0.33)[strength - 1])

    def reduced(image: Pixels) -> Pixels:
        coarse = Image.fromarray(image).resize((small, small), Image.Resampling.BILINEAR)
        return np.asarray(coarse.resize((side, side), Image.Resampling.BILINEAR))

    return np.stack([reduced(image) for image in images])


def _pixels(values: NDArray[np.floating]) -> Pixels:
    return np.asarray(np.clip(values + 0.5, 0, 255), np.uint8)


_CAMERA = {
    "white balance": _white_balance,
    "gamma": _gamma,
    "sharpening": _sharpening,
    "resolution": _resolution,
}
