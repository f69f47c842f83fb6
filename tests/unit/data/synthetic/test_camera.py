"""Tests the simulated camera."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.synthetic.camera import Frame, photograph, photograph_track, scenery
from src.mlops.data.synthetic.drawing import draw_sign

SHAPES = ("disc", "plate")


def track(class_id: int, rng: np.random.Generator, frames: int) -> list[Frame]:
    return list(photograph_track(draw_sign(SIGNS[class_id]), rng, frames))


def magenta(shape: str) -> Image.Image:
    """Returns a drawing of one colour that is rare in the backgrounds."""
    drawing = Image.new("RGBA", (128, 128))
    if shape == "disc":
        ImageDraw.Draw(drawing).ellipse((0, 0, 127, 127), (255, 0, 255))
    else:
        ImageDraw.Draw(drawing).rectangle((0, 40, 127, 87), (255, 0, 255))
    return drawing


def frames_of(shape: str, tracks: int = 60) -> list[Frame]:
    return [
        frame for seed in range(tracks) for frame in photograph_track(magenta(shape), np.random.default_rng(seed), 4)
    ]


def box_of_magenta(frame: Frame) -> NDArray[np.int64] | None:
    """Returns the bounding box of the magenta pixels; None if the sign is too dark, pale or covered to tell."""
    pixels = np.asarray(frame.image, np.float32)
    tone = np.minimum(pixels[..., 0], pixels[..., 2]) - pixels[..., 1]
    middle_x, middle_y = (frame.roi[0] + frame.roi[2]) // 2, (frame.roi[1] + frame.roi[3]) // 2
    typical = np.median(tone[middle_y - 2 : middle_y + 3, middle_x - 2 : middle_x + 3])
    if typical < 60:
        return None
    seen = tone > typical / 2
    columns, rows = np.flatnonzero(seen.sum(axis=0) >= 2), np.flatnonzero(seen.sum(axis=1) >= 2)
    return np.array([columns[0], rows[0], columns[-1], rows[-1]])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_roi_encloses_the_sign(shape: str) -> None:
    frames = [(frame.roi, box) for frame in frames_of(shape) if (box := box_of_magenta(frame)) is not None]
    errors = np.array([np.abs(np.subtract(roi, box)) for roi, box in frames])
    assert len(errors) > 50
    assert (np.median(errors, axis=0) <= 1).all()
    assert (np.mean(errors <= 2, axis=0) > 0.8).all()  # others have blur, stickers and dirt at the edge


@pytest.mark.parametrize("shape", SHAPES)
def test_the_frame_has_a_border_as_in_the_benchmark(shape: str) -> None:
    """10 % of the sign, at least 5 px. A sign that is not square makes a frame that is not square."""
    borders, ratios = [], []
    for frame in frames_of(shape):
        left, top, right, bottom = frame.roi
        width, height = frame.image.size
        wanted = max(5, 0.1 * max(right - left, bottom - top))
        borders.append([value / wanted for value in (left, top, width - 1 - right, height - 1 - bottom)])
        ratios.append(width / height)
    assert np.min(borders) >= 0
    assert np.max(borders) < 2
    assert (np.abs(np.median(borders, axis=0) - 1) < 0.3).all()
    assert 0.8 < np.median(ratios) < 1.2 if shape == "disc" else np.median(ratios) > 1.4


def test_the_sign_in_a_track_becomes_larger() -> None:
    for seed in range(20):
        sides = [max(frame.image.size) for frame in track(13, np.random.default_rng(seed), 8)]
        assert all(later >= earlier - 6 for earlier, later in pairwise(sides))  # the border varies
        assert 14 <= sides[0] < 45
        assert sides[0] < sides[-1] <= 140


@pytest.mark.parametrize("frames", [1, 2, 30])
def test_a_track_has_the_requested_number_of_frames(frames: int) -> None:
    taken = track(0, np.random.default_rng(1), frames)
    assert [frame.image.mode for frame in taken] == ["RGB"] * frames


def test_a_track_depends_only_on_the_generator() -> None:
    first, again, other = (
        [(frame.image.tobytes(), frame.roi) for frame in track(1, np.random.default_rng(seed), 3)] for seed in (3, 3, 4)
    )
    assert first == again != other


def test_frames_of_a_track_resemble_each_other_more_than_other_tracks() -> None:
    rng = np.random.default_rng(0)
    tracks = [[np.asarray(frame.image.resize((16, 16)), np.float32) for frame in track(38, rng, 4)] for _ in range(8)]
    within = np.mean([np.abs(one[0] - frame).mean() for one in tracks for frame in one[1:]])
    between = np.mean([np.abs(one[0] - other[1]).mean() for one in tracks for other in tracks if other is not one])
    assert within < between / 2


@pytest.mark.parametrize("size", [15, 32, 90])
def test_a_rendered_image_depends_only_on_the_generator(size: int) -> None:
    drawing = draw_sign(SIGNS[1])
    for render in (lambda rng: photograph(drawing, rng, size), lambda rng: scenery(rng, size)):
        images = [render(np.random.default_rng(seed)) for seed in (3, 3, 4)]
        assert all((image.mode, image.size) == ("RGB", (size, size)) for image in images)
        assert images[0].tobytes() == images[1].tobytes() != images[2].tobytes()


def test_the_drawing_is_not_changed() -> None:
    drawing = draw_sign(SIGNS[14])
    before = drawing.tobytes()
    list(photograph_track(drawing, np.random.default_rng(0), 2))
    assert drawing.tobytes() == before
