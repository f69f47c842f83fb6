"""Draws coloured shapes with a digit in them, the classes of a made-up data set."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SHAPES = ("circle", "cross", "hexagon", "square", "star", "triangle")
COLOURS = {
    "red": (205, 40, 45),
    "yellow": (235, 200, 40),
    "green": (45, 150, 70),
    "blue": (40, 90, 190),
    "violet": (130, 60, 150),
}
DIGITS = ("2", "3", "4", "7")
SIDE = 64  # px
_SCALE = 4  # drawn at a multiple of the size, then reduced, which smooths the edges
_INK = (250, 250, 250), (20, 20, 20)


def draw_shape(shape: str, colour: str, digit: str, rng: np.random.Generator) -> Image.Image:
    """Draws one image.

    Args:
        shape: One of `SHAPES`.
        colour: One of `COLOURS`.
        digit: Text inside the shape.
        rng: Decides on pose, background, light and noise.

    Returns:
        RGB image of 64 x 64 px.
    """
    side = SIDE * _SCALE
    image = _background(rng, side)
    radius = side * rng.uniform(0.33, 0.45)
    centre = side / 2 + rng.uniform(-0.06, 0.06, 2) * side
    angle = math.radians(rng.uniform(-15, 15))
    fill = tuple(np.clip(np.array(COLOURS[colour]) + rng.normal(0, 14, 3), 0, 255).astype(int).tolist())
    corners = complex(*centre) + radius * np.exp(1j * angle) * _outline(shape)
    ImageDraw.Draw(image).polygon([(corner.real, corner.imag) for corner in corners.tolist()], fill=fill)
    image.paste(_INK[rng.integers(2)], mask=_digit(digit, side, radius, centre, angle))
    image = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    light = rng.uniform(0.6, 1.25)
    noisy = np.asarray(image) * light + rng.normal(0, rng.uniform(2, 10), (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _background(rng: np.random.Generator, side: int) -> Image.Image:
    """Returns blurred patches of random brightness, slightly coloured."""
    patches = rng.uniform(0, 255, (4, 4, 1)) + rng.normal(0, 20, (4, 4, 3))
    image = Image.fromarray(np.clip(patches, 0, 255).astype(np.uint8))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def _outline(shape: str) -> NDArray[np.complex128]:
    """Returns the corners of a shape of radius 1 in the complex plane."""
    if shape == "cross":
        quarter = np.array([0.36 - 0.36j, 1 - 0.36j, 1 + 0.36j])
        return np.concatenate([quarter * 1j**turn for turn in range(4)])
    corners = {"triangle": 3, "square": 4, "hexagon": 6, "star": 10, "circle": 48}[shape]
    places = np.arange(corners)
    radii = np.where(places % 2, 0.6, 1.0) if shape == "star" else 1.0
    upright = 1 + 1j if shape == "square" else -1j
    return np.asarray(radii * upright / abs(upright) * np.exp(2j * math.pi / corners * places))


def _digit(digit: str, side: int, radius: float, centre: NDArray[np.float64], angle: float) -> Image.Image:
    """Returns the mask of a digit in the middle of a shape."""
    mask = Image.new("L", (side, side))
    font = ImageFont.load_default(size=radius)
    stroke = round(0.03 * radius)
    ImageDraw.Draw(mask).text((centre[0], centre[1]), digit, 255, font, anchor="mm", stroke_width=stroke)
    return mask.rotate(-math.degrees(angle), center=(centre[0], centre[1]))
