"""Shifts of a stream of images: corruptions, a new camera, another mix of classes, and unknown things.

Images are uint8 [N, S, S, 3], for `CAMERAS` and `FURTHER_CAMERAS` also uint8 [N, H, W, 3].
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.optimize import brentq

from src.mlops.evaluation.corruptions import CORRUPTIONS, corrupt

Pixels = NDArray[np.uint8]
SEVERITIES = (1, 3, 5)
STRENGTHS = (1, 2, 3)
DISTANCES = (0.1, 0.2, 0.4)  # total variation distance between two mixes of classes
SHARES = (0.02, 0.1, 0.3)  # of unknown things
FEW = {"one class": 1, "three classes": 3, "five classes": 5}
MIXES = (*FEW, "all classes")


def all_shifts() -> list[tuple[str, int]]:
    """Returns the name and the strength of each shift that changes the images themselves."""
    weather = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]
    return weather + [(name, strength) for name in CAMERAS for strength in STRENGTHS]


def shifted(images: Pixels, name: str, strength: int, seed: int = 0) -> Pixels:
    """Returns images as bad weather or another camera would show them.

    Args:
        images: uint8 [N, S, S, 3].
        name: A corruption or one of the cameras in `all_shifts`.
        strength: Severity of the corruption, or 1 to 3 for a camera.
        seed: Seed of the random numbers.
    """
    return corrupt(images, name, strength, seed) if name in CORRUPTIONS else CAMERAS[name](images, strength)


def other_mix(shares: NDArray[np.float64], kind: str, distance: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Returns a mix of classes at a given total variation distance.

    Args:
        shares: The usual mix, float64 [C] with the sum 1.
        kind: A key of `FEW`: as many random classes become more frequent at the expense of all others, as on another
            road. `all classes`: each class becomes more or less frequent by a log-normal factor.
        distance: Total variation distance, below 0.5.
        rng: Source of the random choices.
    """
    if kind == "all classes":
        direction = rng.normal(size=len(shares))

        def tilted(strength: float) -> NDArray[np.float64]:
            weights = shares * np.exp(strength * direction)
            return np.asarray(weights / weights.sum())

        strength = brentq(lambda value: np.abs(tilted(value) - shares).sum() / 2 - distance, 0, 20)
        return tilted(float(strength))
    present = np.flatnonzero(shares)
    chosen = rng.choice(present, FEW[kind], replace=False)
    rest = np.setdiff1d(present, chosen)
    mix = shares.copy()
    mix[chosen] += distance * shares[chosen] / shares[chosen].sum()
    mix[rest] *= 1 - distance / shares[rest].sum()
    return mix


def _white_balance(images: Pixels, strength: int) -> Pixels:
    """Makes images warmer: more red and less blue, by 5, 12 or 25 %."""
    gain = (0.05, 0.12, 0.25)[strength - 1]
    return _pixels(images * np.array([1 + gain, 1, 1 - gain]))


def _colder(images: Pixels, strength: int) -> Pixels:
    """Makes images colder: more blue and less red, by 5, 12 or 25 %."""
    return _white_balance(images[..., ::-1], strength)[..., ::-1]


def _gamma(images: Pixels, strength: int) -> Pixels:
    """Lifts the midtones."""
    return _pixels(255 * (images / 255) ** (0.9, 0.75, 0.55)[strength - 1])


def _darker(images: Pixels, strength: int) -> Pixels:
    """Lowers the midtones."""
    return _pixels(255 * (images / 255) ** (1.1, 1.35, 1.8)[strength - 1])


def _sharpening(images: Pixels, strength: int) -> Pixels:
    """Adds 30, 70 or 150 % of the difference to a blurred image (unsharp mask), as cameras do."""
    light = images.astype(np.float32)
    return _pixels(light + (0.3, 0.7, 1.5)[strength - 1] * (light - ndimage.gaussian_filter(light, (0, 1, 1, 0))))


def _resolution(images: Pixels, strength: int) -> Pixels:
    """Reduces the images to 75, 50 or 33 % of their side and enlarges them again."""
    height, width = images.shape[1:3]
    factor = (0.75, 0.5, 0.33)[strength - 1]

    def reduced(image: Pixels) -> Pixels:
        coarse = Image.fromarray(image).resize(
            (round(width * factor), round(height * factor)), Image.Resampling.BILINEAR
        )
        return np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR))

    return np.stack([reduced(image) for image in images])


def _pixels(values: NDArray[np.floating]) -> Pixels:
    return np.asarray(np.clip(values + 0.5, 0, 255), np.uint8)


CAMERAS = {
    "white balance": _white_balance,
    "gamma": _gamma,
    "sharpening": _sharpening,
    "resolution": _resolution,
}
FURTHER_CAMERAS = {  # only in benchmarks.camera_shifts; benchmarks.drift does not have them
    "colder white balance": _colder,
    "darker gamma": _darker,
}
