"""Renders images that show none of the 43 signs, to measure OOD detection."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.synthetic.camera import photograph, scenery
from src.mlops.data.synthetic.drawing import draw_any_version, german_signs

Maker = Callable[[np.random.Generator], Image.Image]
SIDE = 64  # px of every image


def draw_unknowns(count: int, seed: int) -> dict[str, list[Image.Image]]:
    """Renders out-of-distribution (OOD) images of each kind.

    Args:
        count: Images of each kind.
        seed: Seed of all random choices.

    Returns:
        RGB images of 64 x 64 px by kind: `blank`, `noise`, `texture`, `object`, `scenery`, `half sign` (a rendered
        sign cut in half) and `other sign` (a German sign that GTSRB lacks).
    """
    return {
        kind: [make(np.random.default_rng([seed, number, place])) for number in range(count)]
        for place, (kind, make) in enumerate(_KINDS.items())
    }


def plain(rng: np.random.Generator) -> Image.Image:
    """Returns an image of one colour."""
    return Image.new("RGB", (SIDE, SIDE), tuple(int(value) for value in rng.integers(0, 256, 3)))


def noise(rng: np.random.Generator) -> Image.Image:
    """Returns coloured noise, fine or coarse."""
    cells = int(rng.integers(4, SIDE + 1))  # from clouds to single pixels
    pixels = rng.integers(0, 256, (cells, cells, 3), np.uint8)
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def texture(rng: np.random.Generator) -> Image.Image:
    """Returns stripes or a checked pattern of two colours, at a random angle."""
    y, x = np.mgrid[:SIDE, :SIDE]
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 32)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    wave = np.sin(2 * np.pi * along / period)
    if rng.random() < 0.5:
        wave = wave * np.sin(2 * np.pi * across / period)
    share = (1 / (1 + np.exp(-6 * wave)))[..., None]
    first, second = rng.integers(0, 256, (2, 3))
    return Image.fromarray((first * share + second * (1 - share)).astype(np.uint8))


def draw_object(rng: np.random.Generator) -> Image.Image:
    """Returns a rendered image of overlapping coloured shapes."""
    image = Image.new("RGBA", (256, 256))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 6))):
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        x, y = rng.uniform(77, 179, 2)
        kind = rng.integers(3)
        if kind == 0:
            draw.circle((x, y), rng.uniform(20, 72), colour)
        elif kind == 1:
            draw.polygon([(x + dx, y + dy) for dx, dy in rng.uniform(-77, 77, (int(rng.integers(3, 7)), 2))], colour)
        else:
            end = rng.uniform(26, 230, 2)
            draw.line([(x, y), (float(end[0]), float(end[1]))], colour, int(rng.integers(10, 41)))
    return photograph(image, rng, SIDE)


def _half_sign(rng: np.random.Generator) -> Image.Image:
    """Returns an image that is filled by the left, right, upper or lower half of a sign."""
    whole = photograph(draw_any_version(SIGNS[rng.integers(len(SIGNS))], rng), rng, 2 * SIDE)
    half = SIDE
    x, y = [(0, half // 2), (half, half // 2), (half // 2, 0), (half // 2, half)][rng.integers(4)]
    return whole.crop((x, y, x + half, y + half))


def _other_sign(rng: np.random.Generator) -> Image.Image:
    """Returns a German sign that GTSRB lacks."""
    others = german_signs()[len(SIGNS) :]
    return photograph(draw_any_version(others[rng.integers(len(others))], rng), rng, SIDE)


_KINDS: dict[str, Maker] = {
    "blank": plain,
    "noise": noise,
    "texture": texture,
    "object": draw_object,
    "scenery": lambda rng: scenery(rng, SIDE),
    "half sign": _half_sign,
    "other sign": _other_sign,
}
