"""Composes the scene of a sign: its pole and neighbours, what covers it, the background, the light."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from src.mlops.data.synthetic.surface import Floats, smooth_noise, weathered

BACKGROUND_SIDE = 96  # px of the background texture; each frame shows a part of it


@dataclass(frozen=True, slots=True)
class Scene:
    """The properties that all frames of a track share.

    Attributes:
        sign: The sign in the middle of an RGBA image of twice its side, with pole, neighbours and what covers it.
        outline: Points on the sign's outline, float32 [N, 2]; the drawing spans -1 to 1.
        background: float32 [96, 96, 3], where 1 is white in full light.
        tilt: Yaw, pitch and roll in degrees, float32 [3].
        sign_light: Light that a white sign reflects, in red, green and blue, float32 [3].
        background_light: Light on the background, float32 [3].
        veil: Stray light that the windscreen adds everywhere, float32 [3].
        blur: Standard deviation of the lens blur, as a share of the frame's side.
        noise: Noise of the sensor, relative to a typical one.
    """

    sign: Image.Image
    outline: Floats
    background: Floats
    tilt: Floats
    sign_light: Floats
    background_light: Floats
    veil: Floats
    blur: float
    noise: float


def make_scene(drawing: Image.Image, rng: np.random.Generator) -> Scene:
    """Puts a sign into a random scene.

    Args:
        drawing: Square RGBA image of a sign, transparent outside of its outline.
        rng: Source of every random choice.
    """
    # One sign of ten stands in deep shade.
    sign_light = math.exp(rng.normal(-0.7, 0.8) if rng.random() < 0.9 else rng.normal(-2.2, 0.5))
    # Light in the shade comes from the blue sky, and direct sunlight is yellow.
    blueness = rng.normal(0.02 - 0.05 * math.log(sign_light), 0.08)
    cast = rng.normal(1, 0.05, 3) + blueness * np.array([-1, 0, 1])
    mounted = _mounted(weathered(drawing, rng), rng)
    if rng.random() < 0.1:
        _cover(mounted, rng)
    return Scene(
        sign=mounted,
        outline=_outline(drawing),
        background=make_background(rng),
        tilt=rng.normal(0, (16, 7, 4)).astype(np.float32),
        sign_light=(min(sign_light, 2.5) * cast).astype(np.float32),
        # A bright sign in front of a dark background is as frequent as a dark sign in front of a bright one.
        background_light=(sign_light * math.exp(rng.normal(-0.1, 0.9)) * cast).astype(np.float32),
        veil=(rng.random() ** 8 * rng.uniform(0.2, 0.6) * np.array([1, 0.85, 0.9])).astype(np.float32),
        blur=float(rng.uniform(0.005, 0.017)),
        noise=math.exp(rng.normal(0, 0.5)),
    )


def _mounted(sign: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Puts a sign in the middle of an image of twice its side, often with a pole, a plate or another sign."""
    side = sign.width
    mounted = Image.new("RGBA", (2 * side, 2 * side))
    draw = ImageDraw.Draw(mounted)
    grey = int(rng.integers(40, 190))
    half_pole = rng.uniform(0.02, 0.06) * side
    if rng.random() < 0.7:
        top = side if rng.random() < 0.6 else 0
        draw.rectangle((side - half_pole, top, side + half_pole, 2 * side), fill=(grey, grey, grey))
    gap, height = rng.uniform(0, 0.06) * side, rng.uniform(0.25, 0.6) * side
    if rng.random() < 0.25:
        plate = (0.55 * side, 1.5 * side + gap, 1.45 * side, 1.5 * side + gap + height)
        draw.rectangle(plate, fill=(225, 225, 222), outline=(30, 30, 30), width=max(1, side // 40))
    elif rng.random() < 0.25:
        top = rng.choice([1.5 * side + gap, -0.5 * side - gap])
        colour = [(190, 25, 35), (15, 80, 160), (235, 235, 230)][rng.integers(3)]
        draw.ellipse((0.5 * side, top, 1.5 * side, top + side), fill=colour, outline=(235, 235, 230), width=side // 40)
    mounted.alpha_composite(sign, (side // 2, side // 2))
    return mounted


def _cover(mounted: Image.Image, rng: np.random.Generator) -> None:
    """Covers a part of the sign with a pole, a branch, or leaves."""
    side = mounted.width
    if rng.random() < 0.5:
        points = [(float(x), float(y)) for x, y in rng.uniform(0.2, 0.8, (3, 2)) * side]
        grey = int(rng.integers(10, 150))
        ImageDraw.Draw(mounted).line(points, (grey, grey, grey), int(rng.uniform(0.01, 0.05) * side), "curve")
        return
    leaves = smooth_noise(rng, side, 24) + 1.5 * smooth_noise(rng, side, 3) > rng.uniform(1.6, 1.9)
    green = np.array([0.4, 0.5, 0.2]) * rng.uniform(60, 200)
    mounted.paste((*(int(value) for value in green), 255), mask=Image.fromarray(leaves))


def _outline(drawing: Image.Image) -> Floats:
    """Returns the leftmost and the rightmost point of each row of the sign, in units of half the drawing's side."""
    solid = np.asarray(drawing.getchannel("A")) > 127
    rows = np.flatnonzero(solid.any(axis=1))
    left, right = solid[rows].argmax(axis=1), solid.shape[1] - solid[rows, ::-1].argmax(axis=1)
    y = rows + 0.5
    points = np.stack([np.concatenate([left, right]), np.concatenate([y, y])], axis=1)
    return (points / (drawing.width / 2) - 1).astype(np.float32)


def make_background(rng: np.random.Generator) -> Floats:
    """Returns a texture [96, 96, 3] of foliage, sky behind branches, a building, a street, or an open sky.

    Values are float32, and 1 is white in full light. A tenth has a random colour that is not found on roads.
    """
    side = BACKGROUND_SIDE
    rough = 0.5 * smooth_noise(rng, side, 6) + 0.3 * smooth_noise(rng, side, 16) + 0.2 * smooth_noise(rng, side, 48)
    if rng.random() < 0.1:
        return _mix(rng.uniform(0, 1.2, 3), rng.uniform(0, 1.2, 3), rough)
    family = rng.integers(5)
    if family == 0:
        lit_leaf = np.array([0.6, 0.6, 0.35]) + rng.normal(0, 0.1) + rng.normal(0, 0.06, 3)
        return _mix(rng.uniform(0, 0.1) + rng.uniform(0, 0.05, 3), lit_leaf, (rough * 1.4) ** 4)
    if family == 1:
        blueness = np.linspace(rng.random(), 0, side, dtype=np.float32)[:, None]
        sky = _mix(np.full(3, rng.uniform(0.8, 1.1)), np.array([0.55, 0.7, 0.95]), blueness)
        branches = 1 / (1 + np.exp(40 * (rng.uniform(0.5, 0.9) - rough)))
        return np.asarray(sky * (1 - 0.85 * branches[..., None]), np.float32)
    if family == 2:
        # An open sky is brighter than any sign.
        return np.asarray(
            rng.uniform(1, 3)
            * (np.ones(3) - rng.uniform(0, 0.4) * np.array([1, 0.5, 0]))
            * (0.9 + 0.2 * rough[..., None]),
            np.float32,
        )
    image = Image.new("RGB", (side, side), tuple(int(v) for v in rng.integers(60, 220) + rng.integers(-30, 30, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 9))):
        # Façades have vertical edges; a street has horizontal ones.
        width, x = (rng.uniform(5, 60), rng.uniform(-20, side)) if family == 3 else (side, 0)
        height, y = rng.uniform(5, 60), rng.uniform(-20, side)
        shade = int(rng.integers(15, 240))
        draw.rectangle((x, y, x + width, y + height), tuple(int(v) for v in shade + rng.integers(-15, 15, 3)))
    return np.asarray(np.asarray(image, np.float32) / 255 * (0.75 + 0.5 * rough[..., None]), np.float32)


def _mix(start: npt.NDArray[np.float64], end: npt.NDArray[np.float64], share: Floats) -> Floats:
    """Blends two colours [3] by a share [96, 96] or [96, 1]; the result is [96, 96, 3]."""
    blend = np.broadcast_to(share, (BACKGROUND_SIDE, BACKGROUND_SIDE))[..., None]
    return (start * (1 - blend) + end * blend).clip(0, 2).astype(np.float32)
