"""Renders images that show none of the signs, for training: outlier exposure.

A network that sees only known signs learns what tells them apart, which is little: a "70" is the one that is neither 30
nor 50. Images of unknown things teach it how a known sign looks as a whole (Hendrycks, Mazeika and Dietterich, "Deep
Anomaly Detection with Outlier Exposure", 2019). Most of them are invented signs, because real signs that the network
does not know are the most similar unknown things.
"""

from collections.abc import Iterator

import numpy as np

from src.mlops.data.classes import ClassInfo, ClassList
from src.mlops.data.synthetic.camera import Frame, photograph_track, scenery
from src.mlops.data.synthetic.invented import INVENTIONS
from src.mlops.data.synthetic.out_of_distribution import draw_object, noise, plain, texture

_NO_SIGN = "no sign"
_SIDES = (24, 80)  # px of images without a sign


def outlier_kinds() -> ClassList:
    """Returns the kinds of images as classes of a data set."""
    return ClassList(ClassInfo(kind, name) for kind, name in enumerate((*INVENTIONS, _NO_SIGN)))


def render_outliers(kind: ClassInfo, rng: np.random.Generator, frames: int) -> Iterator[Frame]:
    """Renders an invented sign, or images without a sign.

    Args:
        kind: One of `outlier_kinds`.
        rng: Source of every random choice.
        frames: Number of images: frames of one sign, see `photograph_track`, or of different scenes.

    Yields:
        The images.
    """
    if draw := INVENTIONS.get(kind.name):
        yield from photograph_track(draw(rng), rng, frames)
        return
    for _ in range(frames):
        side = int(rng.integers(*_SIDES))
        choice = rng.choice(5, p=(0.55, 0.15, 0.15, 0.1, 0.05))
        if choice == 0:
            image = scenery(rng, side)
        else:
            image = (draw_object, texture, noise, plain)[choice - 1](rng).resize((side, side))
        yield Frame(image, (0, 0, side - 1, side - 1))
