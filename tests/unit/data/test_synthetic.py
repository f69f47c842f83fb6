"""Tests the drawings of the signs, the synthetic images and the data set of these images."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from src.mlops.data.classes import ClassInfo
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.layouts import read_layout
from src.mlops.data.synthetic.camera import photograph, photograph_track
from src.mlops.data.synthetic.drawing import draw_sign
from src.mlops.data.synthetic.generate import generate
from src.mlops.errors import DataError
from tests.helpers.synthetic import contents, generate_small

SIZE = 64


def difference(one: Image.Image, other: Image.Image) -> float:
    """Returns the mean absolute difference of two images of equal size, 0 to 255."""
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_small(tmp_path_factory.mktemp("synthetic") / "signs")


@pytest.mark.parametrize("class_id", range(len(SIGNS)))
def test_a_sign_fills_its_image_and_is_transparent_outside(class_id: int) -> None:
    drawing = draw_sign(class_id, SIZE)
    assert (drawing.mode, drawing.size) == ("RGBA", (SIZE, SIZE))
    alpha = np.asarray(drawing.getchannel("A"))
    assert alpha[SIZE // 2, SIZE // 2] == 255
    assert alpha[0, 0] == alpha[-1, -1] == 0
    left, top, right, bottom = drawing.getbbox() or (0, 0, 0, 0)
    assert right - left >= 0.95 * SIZE
    assert bottom - top >= 0.8 * SIZE


def test_every_sign_differs_from_every_other() -> None:
    drawings = [draw_sign(sign.class_id, SIZE) for sign in SIGNS]
    closest = min(difference(one, other) for i, one in enumerate(drawings) for other in drawings[:i])
    assert closest > 1.5  # of 255; the most similar signs are speed limits, which differ in part of one digit


@pytest.mark.parametrize("sign", [sign for sign in SIGNS if sign.mirror is not None], ids=lambda sign: sign.name)
def test_the_mirrored_drawing_is_the_mirror_class(sign: ClassInfo) -> None:
    flipped = ImageOps.mirror(draw_sign(sign.class_id, SIZE))
    distances = [difference(flipped, draw_sign(other.class_id, SIZE)) for other in SIGNS]
    assert int(np.argmin(distances)) == sign.mirror
    assert min(distances) < 2.2  # of 255; the next test covers the signs without a mirror class


@pytest.mark.parametrize("sign", [sign for sign in SIGNS if sign.mirror is None], ids=lambda sign: sign.name)
def test_a_mirrored_sign_without_mirror_class_resembles_no_sign(sign: ClassInfo) -> None:
    flipped = ImageOps.mirror(draw_sign(sign.class_id, SIZE))
    assert min(difference(flipped, draw_sign(other.class_id, SIZE)) for other in SIGNS) > 2.6


def test_painting_on_a_drawing_leaves_the_next_one_clean() -> None:
    untouched = draw_sign(14, SIZE).tobytes()
    draw_sign(14, SIZE).paste((0, 0, 0, 255), (0, 0, SIZE, SIZE))
    assert draw_sign(14, SIZE).tobytes() == untouched


@pytest.mark.parametrize("class_id", [-1, len(SIGNS)])
def test_an_unknown_class_is_rejected(class_id: int) -> None:
    with pytest.raises(DataError, match=f"class {class_id}: .*0 to 42"):
        draw_sign(class_id)
    with pytest.raises(DataError, match=f"class {class_id}: .*0 to 42"):
        list(photograph_track(class_id, np.random.default_rng(0), frames=1))


@pytest.mark.parametrize("size", [15, 32, 90])
def test_a_rendered_image_depends_only_on_the_generator(size: int) -> None:
    drawing = draw_sign(1)
    images = [photograph(drawing, np.random.default_rng(seed), size) for seed in (3, 3, 4)]
    assert all((image.mode, image.size) == ("RGB", (size, size)) for image in images)
    assert images[0].tobytes() == images[1].tobytes() != images[2].tobytes()


def test_the_sign_in_a_track_becomes_larger() -> None:
    frames = [frame.image for frame in photograph_track(13, np.random.default_rng(0), frames=8)]
    widths = [frame.width for frame in frames]
    assert widths == sorted(widths)
    assert 15 <= widths[0] <= 35 < widths[-1] <= 120


def test_frames_of_a_track_resemble_each_other_more_than_other_tracks() -> None:
    rng = np.random.default_rng(0)
    tracks = [[frame.image.resize((16, 16)) for frame in photograph_track(38, rng, frames=4)] for _ in range(6)]
    within = np.mean([difference(track[0], frame) for track in tracks for frame in track[1:]])
    between = np.mean([difference(track[0], other[1]) for track in tracks for other in tracks if other is not track])
    assert within < between / 2


def test_the_dataset_has_the_kaggle_layout(dataset: Path) -> None:
    raw = read_layout(dataset)
    assert (raw.layout, raw.unlisted) == ("Kaggle", [])
    assert raw.train.groupby("class_id").size().tolist() == [4] * len(SIGNS)
    assert raw.test.groupby("class_id").size().tolist() == [2] * len(SIGNS)
    assert raw.train.groupby("track_id").size().tolist() == [2] * 2 * len(SIGNS)
    assert "Train/42/00042_00001_00001.png" in set(raw.train["path"])
    assert raw.test["path"].tolist() == [f"Test/{number:05d}.png" for number in range(2 * len(SIGNS))]
    assert not raw.test["class_id"].is_monotonic_increasing


def test_the_csv_files_agree_with_the_images(dataset: Path) -> None:
    raw = read_layout(dataset)
    table = pd.concat([raw.train, raw.test])
    for path, width, height in zip(table["path"], table["width"], table["height"], strict=True):
        with Image.open(dataset / path) as image:
            assert (image.mode, *image.size) == ("RGB", width, height)
    for low, high, side in (("roi_x1", "roi_x2", "width"), ("roi_y1", "roi_y2", "height")):
        assert (table[low] >= 0).all()
        assert (table[high] < table[side]).all()
        assert ((table[high] - table[low]) > 0.5 * table[side]).all()


def test_a_folder_that_is_not_empty_is_rejected_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match=rf"{re.escape(str(tmp_path))}.*empty folder"):
        generate_small(tmp_path)
    assert contents(tmp_path) == {"mine.txt": b"keep"}


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    generate(tmp_path / "empty", tracks_per_class=1, frames_per_track=1, test_tracks_per_class=0, seed=0)
    raw = read_layout(tmp_path / "empty")
    assert (len(raw.train), len(raw.test)) == (len(SIGNS), 0)


def test_a_run_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        generate_small(tmp_path / "signs")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"tracks_per_class": 0}, {"frames_per_track": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_rejected(wrong: dict[str, int], tmp_path: Path) -> None:
    settings = {"tracks_per_class": 1, "frames_per_track": 1, "test_tracks_per_class": 1, "seed": 0} | wrong
    ((name, value),) = wrong.items()
    with pytest.raises(DataError, match=rf"signs: .*{name} \({value}\)"):
        generate(tmp_path / "signs", **settings)
    assert list(tmp_path.iterdir()) == []
