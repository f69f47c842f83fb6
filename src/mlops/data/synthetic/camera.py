"""Renders drawings of signs as a car's camera would see them.

A frame is rendered in the order in which light travels: a weathered sign on its pole, its pose in front of a
background, lens and motion blur, exposure, sensor noise. The properties of the physical sign and its scene are chosen
once per track (`_Scene`), all others for each frame. Up to the sensor, light is float32, where 1 is a fully exposed
white.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Floats = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]  # [3, 3], a homography

_BACKGROUND_SIDE = 96  # px of the background texture; each frame shows a part of it
_CAMERA_DISTANCE = 5.0  # from the sign, in half sign widths; determines the perspective


class Frame(NamedTuple):
    """One rendered image of a sign.

    Attributes:
        image: RGB image.
        roi: The sign's bounding box in pixels, as x1, y1, x2, y2.
    """

    image: Image.Image
    roi: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Scene:
    """The properties that all frames of a track share."""

    sign: Image.Image  # RGBA, the sign in the middle of an image of twice its side, with pole and plate
    outline: Floats  # [N, 2], points on the sign's outline; the drawing spans -1 to 1
    background: Floats  # [96, 96, 3]
    tilt: Floats  # [3], yaw, pitch and roll in degrees
    sign_light: Floats  # [3], light that a white sign reflects, in red, green and blue
    background_light: Floats  # [3]
    veil: Floats  # [3], stray light that the windscreen adds everywhere
    blur: float  # standard deviation of the lens blur, as a share of the frame's side
    noise: float  # of the sensor, relative to a typical one


def photograph(drawing: Image.Image, rng: np.random.Generator, size: int) -> Image.Image:
    """Renders a drawing once, in a random scene.

    Args:
        drawing: Square RGBA image of a sign, transparent outside of its outline.
        rng: Source of every random choice.
        size: Side of the result in pixels.

    Returns:
        An RGB image of `size` x `size` pixels. The sign fills about 70 to 95 % of its side.
    """
    return _shoot(_scene(drawing, rng), rng, size).image


def photograph_track(drawing: Image.Image, rng: np.random.Generator, frames: int) -> Iterator[Frame]:
    """Renders one physical sign while the car approaches it.

    Args:
        drawing: Square RGBA image of a sign, transparent outside of its outline.
        rng: Source of every random choice.
        frames: Number of frames, the farthest first.

    Yields:
        Frames that grow from about 25 to about 75 pixels.
    """
    scene = _scene(drawing, rng)
    # At constant speed the distance decreases linearly, and the size is its inverse.
    for nearness in np.linspace(1 / rng.uniform(18, 32), 1 / rng.uniform(48, 110), frames):
        yield _shoot(scene, rng, round(1 / nearness))


def scenery(rng: np.random.Generator, size: int) -> Image.Image:
    """Renders a background without a sign.

    Args:
        rng: Source of every random choice.
        size: Side of the result in pixels.

    Returns:
        An RGB image of `size` x `size` pixels.
    """
    light = _backdrop(_background(rng), rng, size) * math.exp(rng.normal(-0.2, 0.5))
    light = _blurred(light, _blur_kernel(rng, rng.uniform(0.005, 0.017) * size, size))
    return Image.fromarray((light.clip(0, 1) * 255 + 0.5).astype(np.uint8))


# The scene.


def _scene(drawing: Image.Image, rng: np.random.Generator) -> _Scene:
    sign_light = math.exp(rng.normal(-0.7, 0.8))
    cast = rng.normal(1, 0.06, 3) + rng.normal(0, 0.08) * np.array([1, 0, -1])  # the second term is colour temperature
    return _Scene(
        sign=_mounted(_weathered(drawing, rng), rng),
        outline=_outline(drawing),
        background=_background(rng),
        tilt=rng.normal(0, (16, 7, 4)).astype(np.float32),
        sign_light=(min(sign_light, 2.5) * cast).astype(np.float32),
        # A bright sign in front of a dark background is as frequent as a dark sign in front of a bright one.
        background_light=(sign_light * math.exp(rng.normal(-0.1, 0.9)) * cast).astype(np.float32),
        veil=(rng.random() ** 8 * rng.uniform(0.2, 0.6) * np.array([1, 0.85, 0.9])).astype(np.float32),
        blur=float(rng.uniform(0.005, 0.017)),
        noise=math.exp(rng.normal(0, 0.5)),
    )


def _noise(rng: np.random.Generator, side: int, cells: int) -> Floats:
    """Returns smooth noise [side, side] from about 0 to 1 with `cells` bumps along each side."""
    coarse = Image.fromarray(rng.random((cells, cells), np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.float32)


def _weathered(drawing: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.array(drawing, np.float32)
    bleach = rng.random() ** 4 * 0.45
    pixels[..., :3] += bleach * (np.array([225, 190, 150]) - pixels[..., :3])
    dirt = 1 - rng.uniform(0, 0.2) * _noise(rng, drawing.width, 12)
    # A shadow has an edge. Fine noise gives the shadow of leaves, coarse noise that of a building.
    shape = _noise(rng, drawing.width, int(rng.integers(2, 8)))
    shadow = 1 - max(0.0, rng.uniform(-1.4, 0.7)) / (1 + np.exp(-20 * (shape - rng.uniform(0.3, 0.7))))
    pixels[..., :3] *= (dirt * shadow)[..., None]
    weathered = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.1:
        x, y = rng.uniform(0.2, 0.8, 2) * drawing.width
        half_width, half_height = rng.uniform(0.03, 0.1, 2) * drawing.width
        sticker = (x - half_width, y - half_height, x + half_width, y + half_height)
        ImageDraw.Draw(weathered).rectangle(sticker, fill=tuple(int(v) for v in rng.integers(30, 240, 3)))
        weathered.putalpha(drawing.getchannel("A"))
    return weathered


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


def _outline(drawing: Image.Image) -> Floats:
    """Returns the leftmost and the rightmost point of each row of the sign, in units of half the drawing's side."""
    solid = np.asarray(drawing.getchannel("A")) > 127
    rows = np.flatnonzero(solid.any(axis=1))
    left, right = solid[rows].argmax(axis=1), solid.shape[1] - solid[rows, ::-1].argmax(axis=1)
    y = rows + 0.5
    points = np.stack([np.concatenate([left, right]), np.concatenate([y, y])], axis=1)
    return (points / (drawing.width / 2) - 1).astype(np.float32)


def _background(rng: np.random.Generator) -> Floats:
    """Returns a texture [96, 96, 3] of foliage, sky behind branches, a building, or a street."""
    side = _BACKGROUND_SIDE
    rough = 0.5 * _noise(rng, side, 6) + 0.3 * _noise(rng, side, 16) + 0.2 * _noise(rng, side, 48)
    family = rng.integers(4)
    if family == 0:
        lit_leaf = np.array([0.6, 0.6, 0.35]) + rng.normal(0, 0.1) + rng.normal(0, 0.06, 3)
        return _mix(rng.uniform(0, 0.1) + rng.uniform(0, 0.05, 3), lit_leaf, (rough * 1.4) ** 4)
    if family == 1:
        blueness = np.linspace(rng.random(), 0, side, dtype=np.float32)[:, None]
        sky = _mix(np.full(3, rng.uniform(0.8, 1.1)), np.array([0.55, 0.7, 0.95]), blueness)
        branches = 1 / (1 + np.exp(40 * (rng.uniform(0.5, 0.9) - rough)))
        return np.asarray(sky * (1 - 0.85 * branches[..., None]), np.float32)
    image = Image.new("RGB", (side, side), tuple(int(v) for v in rng.integers(60, 220) + rng.integers(-30, 30, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 9))):
        # Façades have vertical edges; a street has horizontal ones.
        width, x = (rng.uniform(5, 60), rng.uniform(-20, side)) if family == 2 else (side, 0)
        height, y = rng.uniform(5, 60), rng.uniform(-20, side)
        shade = int(rng.integers(15, 240))
        draw.rectangle((x, y, x + width, y + height), tuple(int(v) for v in shade + rng.integers(-15, 15, 3)))
    return np.asarray(np.asarray(image, np.float32) / 255 * (0.75 + 0.5 * rough[..., None]), np.float32)


def _mix(start: npt.NDArray[np.float64], end: npt.NDArray[np.float64], share: Floats) -> Floats:
    """Blends two colours [3] by a share [96, 96] or [96, 1]; the result is [96, 96, 3]."""
    blend = np.broadcast_to(share, (_BACKGROUND_SIDE, _BACKGROUND_SIDE))[..., None]
    return (start * (1 - blend) + end * blend).clip(0, 2).astype(np.float32)


# The frame.


def _shoot(scene: _Scene, rng: np.random.Generator, size: int) -> Frame:
    fill = rng.uniform(0.72, 0.93)
    pose = _pose(scene.tilt + rng.normal(0, 1.5, 3))
    outline = _project(pose, scene.outline)
    low, high = outline.min(axis=0), outline.max(axis=0)
    scale = fill * size / (high - low).max()
    middle = size / 2 + rng.uniform(-0.3, 0.3, 2) * (1 - fill) * size
    shift = middle - scale * (low + high) / 2
    pose = np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]]) @ pose
    first, last = np.floor(scale * low + shift), np.ceil(scale * high + shift) - 1
    roi = np.concatenate([first, last]).clip(0, size - 1).astype(int)

    seen = _warp(scene.sign, pose, size)
    alpha = seen[..., 3:]
    light = seen[..., :3] * alpha * scene.sign_light
    light += _backdrop(scene.background, rng, size) * (1 - alpha) * scene.background_light
    light = _blurred(light, _blur_kernel(rng, scene.blur * size * rng.uniform(0.8, 1.3), size))
    light = light * math.exp(rng.normal(0, 0.08)) + scene.veil
    # Shot noise grows with the square root of the light; read noise is constant.
    light = light.clip(0, 1)
    light += rng.standard_normal(light.shape, np.float32) * scene.noise * np.sqrt(0.0001 + 0.0006 * light)
    image = Image.fromarray((light.clip(0, 1) * 255 + 0.5).astype(np.uint8))
    if rng.random() < 0.1:
        compressed = io.BytesIO()
        image.save(compressed, "JPEG", quality=int(rng.integers(50, 95)))
        image = Image.open(compressed).convert("RGB")
    return Frame(image, (int(roi[0]), int(roi[1]), int(roi[2]), int(roi[3])))


def _pose(degrees: npt.NDArray[np.float64]) -> Matrix:
    """Returns the homography of a plane that is rotated by yaw, pitch and roll in front of a pinhole camera."""
    yaw, pitch, roll = np.radians(degrees)
    turn_yaw = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
    turn_pitch = np.array([[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]])
    turn_roll = np.array([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]])
    pose = np.asarray(turn_yaw @ turn_pitch @ turn_roll, np.float64)
    pose[:, 2] = 0, 0, 1  # the sign is flat, so the camera's distance replaces its depth
    pose[2, :2] /= _CAMERA_DISTANCE
    return pose


def _project(homography: Matrix, points: Floats) -> npt.NDArray[np.float64]:
    projected = np.column_stack([points, np.ones(len(points))]) @ homography.T
    return np.asarray(projected[:, :2] / projected[:, 2:], np.float64)


def _warp(sign: Image.Image, pose: Matrix, size: int) -> Floats:
    """Returns the mounted sign as the camera sees it, float32 [size, size, 4] from 0 to 1."""
    side = max(8, round(4 * pose[0, 0]))
    # Resize first, because a perspective transform samples single points and would miss thin lines.
    scaled = sign.resize((side, side), Image.Resampling.BOX if side < sign.width else Image.Resampling.BICUBIC)
    to_pixels = np.array([[side / 4, 0, side / 2], [0, side / 4, side / 2], [0, 0, 1]])
    inverse = to_pixels @ np.linalg.inv(pose)
    coefficients = (inverse / inverse[2, 2]).ravel()[:8]
    seen = scaled.transform((size, size), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
    return np.asarray(seen, np.float32) / np.float32(255)


def _backdrop(texture: Floats, rng: np.random.Generator, size: int) -> Floats:
    """Returns a random part of the texture, [size, size, 3]."""
    part = int(rng.integers(72, 85))
    x, y = rng.integers(0, _BACKGROUND_SIDE - part + 1, 2)
    index = np.arange(size) * part // size
    return np.asarray(texture[y + index[:, None], x + index], np.float32)


def _blur_kernel(rng: np.random.Generator, sigma: float, size: int) -> Floats:
    """Returns a normalised Gaussian kernel, sometimes stretched in the direction in which the camera moves."""
    motion = size * rng.uniform(0.01, 0.05) if rng.random() < 0.2 else 0.0
    angle = rng.uniform(0, math.pi)
    radius = min(4, max(1, math.ceil(2 * (sigma + motion))))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kernel = np.exp(-0.5 * (along**2 / (sigma + motion) ** 2 + across**2 / sigma**2)).astype(np.float32)
    kernel[kernel < 0.005] = 0  # too small to be visible
    return np.asarray(kernel / kernel.sum(), np.float32)


def _blurred(light: Floats, kernel: Floats) -> Floats:
    radius, size = len(kernel) // 2, len(light)
    padded = np.pad(light, ((radius, radius), (radius, radius), (0, 0)), "edge")
    blurred = np.zeros_like(light)
    for y, x in np.argwhere(kernel):
        blurred += kernel[y, x] * padded[y : y + size, x : x + size]
    return blurred
