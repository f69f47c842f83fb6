"""Renders images that show none of the 43 signs, to measure OOD detection."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.synthetic.camera import photograph, scenery
from src.mlops.data.synthetic.drawing import BLACK, BLUE, RED, WHITE, YELLOW, Canvas, draw_sign

Maker = Callable[[np.random.Generator], Image.Image]
SIDE = 64  # px of every image


def draw_unknowns(count: int, seed: int) -> dict[str, list[Image.Image]]:
    """Renders out-of-distribution (OOD) images of each kind.

    Args:
        count: Images of each kind.
        seed: Seed of all random choices.

    Returns:
        RGB images of 64 x 64 px by kind: `blank`, `noise`, `texture`, `object`, `scenery`, `half sign` (a rendered
        sign cut in half) and `other sign` (a road sign that belongs to none of the classes).
    """
    return {
        kind: [make(np.random.default_rng([seed, number, place])) for number in range(count)]
        for place, (kind, make) in enumerate(_KINDS.items())
    }


def _blank(rng: np.random.Generator) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), tuple(int(value) for value in rng.integers(0, 256, 3)))


def _noise(rng: np.random.Generator) -> Image.Image:
    cells = int(rng.integers(4, SIDE + 1))  # from clouds to single pixels
    pixels = rng.integers(0, 256, (cells, cells, 3), np.uint8)
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _texture(rng: np.random.Generator) -> Image.Image:
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


def _object(rng: np.random.Generator) -> Image.Image:
    """Returns a rendered image of overlapping coloured shapes."""
    canvas = Canvas(512)
    for _ in range(int(rng.integers(2, 6))):
        red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
        colour = (red, green, blue)
        x, y = rng.uniform(30, 70, 2)
        kind = rng.integers(3)
        if kind == 0:
            canvas.disc(x, y, rng.uniform(8, 28), colour)
        elif kind == 1:
            canvas.polygon([(x + dx, y + dy) for dx, dy in rng.uniform(-30, 30, (int(rng.integers(3, 7)), 2))], colour)
        else:
            canvas.stroke(
                [(x, y), (rng.uniform(10, 90), rng.uniform(10, 90))], rng.uniform(4, 16), colour, round_ends=True
            )
    return photograph(canvas.image, rng, SIDE)


def _half_sign(rng: np.random.Generator) -> Image.Image:
    """Returns an image that is filled by the left, right, upper or lower half of a sign."""
    whole = photograph(draw_sign(int(rng.integers(len(SIGNS)))), rng, 2 * SIDE)
    half = SIDE
    x, y = [(0, half // 2), (half, half // 2), (half // 2, 0), (half // 2, half)][rng.integers(4)]
    return whole.crop((x, y, x + half, y + half))


def _other_sign(rng: np.random.Generator) -> Image.Image:
    """Returns a sign of none of the classes: parking, no stopping, a town, a hospital, other numbers and more."""
    canvas = Canvas(512)
    kind = rng.integers(6)
    if kind == 0:
        canvas.box(4, 4, 96, 96, WHITE)
        canvas.box(7, 7, 93, 93, BLUE)
        canvas.text(str(rng.choice(list("PHi"))), (33, 18, 67, 82), WHITE, 1.5)
    elif kind == 1:
        for radius, colour in ((49.5, WHITE), (47.5, RED), (38, BLUE)):
            canvas.disc(50, 50, radius, colour)
        canvas.stroke([(23, 23), (77, 77)], 8, RED)
        if rng.random() < 0.5:
            canvas.stroke([(77, 23), (23, 77)], 8, RED)
    elif kind == 2:
        canvas.box(2, 25, 98, 75, BLACK)
        canvas.box(4, 27, 96, 73, YELLOW)
        canvas.text(str(rng.choice(["Ulm", "Bonn", "Kiel", "Trier"])), (14, 36, 86, 64), BLACK, 0.5)
    elif kind == 3:
        for radius, colour in ((49.5, WHITE), (47.5, BLUE)):
            canvas.disc(50, 50, radius, colour)
        canvas.text(str(rng.choice(["30", "40", "60"])), (24, 30, 76, 70), WHITE, 1.5)
    elif kind == 4:
        for radius, colour in ((49.5, WHITE), (47.5, RED), (36, WHITE)):
            canvas.disc(50, 50, radius, colour)
        canvas.text(str(rng.choice(["5,5t", "2,8m", "3,8m", "12t"])), (19, 39, 81, 61), BLACK, 0.8)
    else:
        canvas.box(4, 14, 96, 86, WHITE)
        canvas.box(7, 17, 93, 83, BLUE)
        canvas.arrow([(20, 50), (80, 50)], 10, 16)
    return photograph(canvas.image, rng, SIDE)


_KINDS: dict[str, Maker] = {
    "blank": _blank,
    "noise": _noise,
    "texture": _texture,
    "object": _object,
    "scenery": lambda rng: scenery(rng, SIDE),
    "half sign": _half_sign,
    "other sign": _other_sign,
}
