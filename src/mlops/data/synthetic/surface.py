"""Ages the surface of a drawn sign: faded paint, dirt, shadows, reflections, stickers.

All of it is randomised more widely than on real roads (domain randomisation, Tobin et al. 2017), so that a network
trained on drawings ignores it.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Floats = npt.NDArray[np.float32]


def smooth_noise(rng: np.random.Generator, side: int, cells: int) -> Floats:
    """Returns smooth noise [side, side] from about 0 to 1 with `cells` bumps along each side."""
    coarse = Image.fromarray(rng.random((cells, cells), np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.float32)


def weathered(drawing: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Returns an aged copy of a drawing.

    Args:
        drawing: Square RGBA image of a sign, transparent outside of its outline.
        rng: Source of every random choice.

    Returns:
        An RGBA image with the same size and outline.
    """
    pixels = np.array(drawing, np.float32)
    colours = _dirty(_faded(pixels[..., :3], rng), rng)
    colours *= _shadow(drawing.width, rng)[..., None]
    if rng.random() < 0.15:
        # A reflection is broad, and as white as the sky.
        shape = smooth_noise(rng, drawing.width, int(rng.integers(2, 5))).clip(0, 1) ** 3
        colours += rng.uniform(60, 250) * shape[..., None]
    pixels[..., :3] = colours
    aged = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.15:
        _stick(aged, rng)
        aged.putalpha(drawing.getchannel("A"))
    return aged


def _faded(colours: Floats, rng: np.random.Generator) -> Floats:
    """Changes the tone of the paint, and bleaches it."""
    if rng.random() < 0.15:  # red fades first
        redness = (colours[..., :1] - colours[..., 1:].max(axis=2, keepdims=True)).clip(0) / 160
        colours = colours + rng.uniform(0.2, 1) * redness * (np.array([225, 190, 170], np.float32) - colours)
    tone = np.eye(3) + rng.normal(0, 0.05, (3, 3))
    tone[0, 1] += 0.05  # the green pixels of a sensor see some of the red light
    bleach = rng.random() ** 4 * 0.45
    bleached = (np.array([225, 190, 150]) + rng.normal(0, 20, 3)).astype(np.float32)
    return np.asarray((1 - bleach) * (colours @ tone.astype(np.float32)) + bleach * bleached, np.float32)


def _dirty(colours: Floats, rng: np.random.Generator) -> Floats:
    """Adds a film of dirt, and sometimes splashes of mud, snow or paint."""
    side = len(colours)
    colours = colours * (1 - rng.uniform(0, 0.2) * smooth_noise(rng, side, 12))[..., None]
    if rng.random() < 0.15:
        shape = smooth_noise(rng, side, int(rng.integers(6, 20)))
        share = rng.uniform(0.3, 1) / (1 + np.exp(-25 * (shape - rng.uniform(0.55, 0.85))))
        colours += share[..., None].astype(np.float32) * (rng.uniform(10, 230) - colours)
    return colours


def _shadow(side: int, rng: np.random.Generator) -> Floats:
    """Returns the share of light [side, side] that a shadow leaves. Its edge is sharp."""
    # Fine noise gives the shadow of leaves, coarse noise that of a building.
    shape = smooth_noise(rng, side, int(rng.integers(2, 8)))
    depth = max(0.0, rng.uniform(-1.4, 0.7))
    return np.asarray(1 - depth / (1 + np.exp(-20 * (shape - rng.uniform(0.3, 0.7)))), np.float32)


def _stick(sign: Image.Image, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(sign)
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(0.2, 0.8, 2) * sign.width
        half_width, half_height = rng.uniform(0.02, 0.1, 2) * sign.width
        box = (x - half_width, y - half_height, x + half_width, y + half_height)
        colour = tuple(int(value) for value in rng.integers(20, 250, 3))
        (draw.rectangle if rng.random() < 0.7 else draw.ellipse)(box, fill=colour)
