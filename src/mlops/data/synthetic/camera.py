"""Renders drawings of signs as a car's camera would see them.

A frame is rendered in the order in which light travels: a weathered sign on its pole, its pose in front of a
background, lens and motion blur, exposure, sensor noise. The properties of the physical sign and its scene are chosen
once per track (`Scene`), all others for each frame. Up to the sensor, light is float32, where 1 is a fully exposed
white.
"""

import io
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import convolve

from src.mlops.data.synthetic.scene import BACKGROUND_SIDE, Scene, make_background, make_scene
from src.mlops.data.synthetic.surface import Floats

Matrix = npt.NDArray[np.float64]  # [3, 3], a homography

_CAMERA_DISTANCE = 5.0  # from the sign, in half sign widths; determines the perspective


class Frame(NamedTuple):
    """One rendered image of a sign.

    Attributes:
        image: RGB image.
        roi: The sign's bounding box in pixels, as x1, y1, x2, y2.
    """

    image: Image.Image
    roi: tuple[int, int, int, int]


def photograph(drawing: Image.Image, rng: np.random.Generator, size: int) -> Image.Image:
    """Renders a drawing once, in a random scene.

    Args:
        drawing: Square RGBA image of a sign, transparent outside of its outline.
        rng: Source of every random choice.
        size: Side of the result in pixels.

    Returns:
        An RGB image of `size` x `size` pixels. The sign fills about 70 to 95 % of its side.
    """
    return _shoot(make_scene(drawing, rng), rng, size, rng.uniform(0.72, 0.93)).image


def photograph_track(drawing: Image.Image, rng: np.random.Generator, frames: int) -> Iterator[Frame]:
    """Renders one physical sign while the car approaches it.

    Args:
        drawing: Square RGBA image of a sign, transparent outside of its outline.
        rng: Source of every random choice.
        frames: Number of frames, the farthest first.

    Yields:
        Frames in which the sign grows from about 20 to about 70 px. As in GTSRB, the frame is cut out around the sign
        with a border of 10 %, at least 5 px, here with some jitter.
    """
    scene = make_scene(drawing, rng)
    # A few tracks are seen from farther away than in the benchmark.
    far, near = (rng.uniform(14, 24), rng.uniform(36, 100)) if rng.random() < 0.93 else rng.uniform((8, 14), (14, 24))
    # At constant speed the distance decreases linearly, and the size is its inverse.
    steps = np.linspace(0, 1, frames) if frames > 1 else [rng.random()]
    for step in steps:
        side = 1 / ((1 - step) / far + step / near)
        border = max(5.0, 0.1 * side)
        size = round(side + 2 * border)
        yield _cut_out(_shoot(scene, rng, size, side / size), border, rng)


def scenery(rng: np.random.Generator, size: int) -> Image.Image:
    """Renders a background without a sign.

    Args:
        rng: Source of every random choice.
        size: Side of the result in pixels.

    Returns:
        An RGB image of `size` x `size` pixels.
    """
    light = _backdrop(make_background(rng), rng, size) * math.exp(rng.normal(-0.2, 0.5))
    light = _blurred(light, _blur_kernel(rng, rng.uniform(0.005, 0.017) * size, size))
    return Image.fromarray((light.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def _shoot(scene: Scene, rng: np.random.Generator, size: int, fill: float) -> Frame:
    """Renders a square frame of which the longer side of the sign fills the share `fill`."""
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
    if rng.random() < 0.5:
        light = _demosaiced(light)
    image = Image.fromarray((light.clip(0, 1) * 255 + 0.5).astype(np.uint8))
    if rng.random() < 0.1:
        compressed = io.BytesIO()
        image.save(compressed, "JPEG", quality=int(rng.integers(50, 95)))
        image = Image.open(compressed).convert("RGB")
    return Frame(image, (int(roi[0]), int(roi[1]), int(roi[2]), int(roi[3])))


def _cut_out(frame: Frame, border: float, rng: np.random.Generator) -> Frame:
    """Cuts out the sign with about the same border on all sides, so a sign that is seen from the side is narrower."""
    left, top, right, bottom = frame.roi
    borders = np.round(border * rng.uniform(0.6, 1.4, 4)).astype(int)
    x, y = max(0, left - int(borders[0])), max(0, top - int(borders[1]))
    box = (
        x,
        y,
        min(frame.image.width, right + 1 + int(borders[2])),
        min(frame.image.height, bottom + 1 + int(borders[3])),
    )
    return Frame(frame.image.crop(box), (left - x, top - y, right - x, bottom - y))


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
    x, y = rng.integers(0, BACKGROUND_SIDE - part + 1, 2)
    index = np.arange(size) * part // size
    return np.asarray(texture[y + index[:, None], x + index], np.float32)


def _blur_kernel(rng: np.random.Generator, sigma: float, size: int) -> Floats:
    """Returns a normalised Gaussian kernel, often stretched or doubled in the direction in which the camera moves."""
    sigma = max(sigma, 0.35)  # a pixel has an extent
    moves = rng.random() < 0.3
    half = size * rng.uniform(0.01, 0.05) if moves else 0.0
    shakes = moves and rng.random() < 0.3
    angle = rng.uniform(0, math.pi)
    radius = min(12, max(1, math.ceil(2 * sigma + half)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    # A steady movement blurs along a line; a shake shows the sign twice.
    beyond = np.abs(along) - half if shakes else (np.abs(along) - half).clip(0)
    kernel = np.exp(-0.5 * (beyond**2 + across**2) / sigma**2).astype(np.float32)
    kernel[kernel < 0.005] = 0  # too small to be visible
    return np.asarray(kernel / kernel.sum(), np.float32)


def _blurred(light: Floats, kernel: Floats) -> Floats:
    radius, size = len(kernel) // 2, len(light)
    padded = np.pad(light, ((radius, radius), (radius, radius), (0, 0)), "edge")
    blurred = np.zeros_like(light)
    for y, x in np.argwhere(kernel):
        blurred += kernel[y, x] * padded[y : y + size, x : x + size]
    return blurred


def _demosaiced(light: Floats) -> Floats:
    """Measures one colour per pixel (Bayer pattern) and interpolates the others, which gives edges coloured fringes."""
    height, width = light.shape[:2]
    y, x = np.mgrid[:height, :width] % 2
    red_or_blue, green = np.outer([0.5, 1, 0.5], [0.5, 1, 0.5]), np.array([[0, 0.25, 0], [0.25, 1, 0.25], [0, 0.25, 0]])
    result = np.empty_like(light)
    for channel, (measured, kernel) in enumerate(((y & x, red_or_blue), (y ^ x, green), (1 - (y | x), red_or_blue))):
        result[..., channel] = convolve(light[..., channel] * measured, kernel.astype(np.float32), mode="mirror")
    return result
