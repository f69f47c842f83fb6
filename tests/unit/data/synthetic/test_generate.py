"""Tests the data set of synthetic images."""

import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from src.mlops.data.classes import CLASSES_FILE
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.layouts import read_layout
from src.mlops.data.synthetic.drawing import german_signs
from src.mlops.data.synthetic.generate import drawing_version, generate, signs_named
from src.mlops.errors import DataError
from tests.helpers.synthetic import contents, generate_small


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_small(tmp_path_factory.mktemp("synthetic") / "signs")


def test_the_dataset_has_the_kaggle_layout(dataset: Path) -> None:
    raw = read_layout(dataset)
    assert (raw.layout, raw.unlisted) == ("Kaggle", [])
    assert raw.classes == SIGNS
    assert raw.train.groupby("class_id").size().tolist() == [4] * len(SIGNS)
    assert raw.test.groupby("class_id").size().tolist() == [2] * len(SIGNS)
    assert raw.train.groupby("track_id").size().tolist() == [2] * 2 * len(SIGNS)
    assert "Train/42/00042_00001_00001.png" in set(raw.train["path"])
    assert raw.test["path"].tolist() == [f"Test/{number:05d}.png" for number in range(2 * len(SIGNS))]
    assert not raw.test["class_id"].is_monotonic_increasing
    assert not (dataset / CLASSES_FILE).exists()


def test_further_signs_are_classes_that_follow_those_of_gtsrb(tmp_path: Path) -> None:
    german = german_signs()
    folder = tmp_path / "signs"
    generate(folder, tracks_per_class=1, frames_per_track=1, test_tracks_per_class=1, seed=0, signs="germany")
    raw = read_layout(folder)
    assert raw.layout == "Kaggle"
    assert raw.classes == german
    assert raw.classes.names[: len(SIGNS)] == SIGNS.names
    assert sorted(raw.train["class_id"]) == sorted(raw.test["class_id"]) == list(range(len(german)))


def test_an_unknown_list_of_signs_is_rejected(tmp_path: Path) -> None:
    assert len(signs_named("gtsrb")) < len(signs_named("germany"))
    numbers = {"tracks_per_class": 1, "frames_per_track": 1, "test_tracks_per_class": 1, "seed": 0}
    with pytest.raises(DataError, match=r"^Signs must be gtsrb, germany or outliers, but are 'france'\.$"):
        generate(tmp_path / "signs", **numbers, signs="france")
    assert list(tmp_path.iterdir()) == []


def test_the_csv_files_agree_with_the_images(dataset: Path) -> None:
    raw = read_layout(dataset)
    table = pd.concat([raw.train, raw.test])
    for path, width, height in zip(table["path"], table["width"], table["height"], strict=True):
        with Image.open(dataset / path) as image:
            assert (image.mode, *image.size) == ("RGB", width, height)
    for low, high, side in (("roi_x1", "roi_x2", "width"), ("roi_y1", "roi_y2", "height")):
        assert (table[low] >= 0).all()
        assert (table[high] < table[side]).all()
        assert ((table[high] - table[low]) > 0.4 * table[side]).all()


def test_equal_arguments_give_equal_bytes(dataset: Path, tmp_path: Path) -> None:
    assert contents(generate_small(tmp_path / "again")) == contents(dataset)
    assert contents(generate_small(tmp_path / "other", seed=8)) != contents(dataset)


def test_more_tracks_leave_the_test_images_as_they_are(tmp_path: Path) -> None:
    for name, tracks in (("few", 1), ("many", 2)):
        generate(tmp_path / name, tracks_per_class=tracks, frames_per_track=1, test_tracks_per_class=1, seed=0)
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    assert few["Test.csv"] == many["Test.csv"]
    assert {path: many[path] for path in few if path.endswith(".png")}.items() <= few.items()


def test_the_version_of_the_drawings_is_stable() -> None:
    assert re.fullmatch("[0-9a-f]{12}", drawing_version())
    assert drawing_version() == drawing_version()


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"tracks_per_class": 100_001},  # would have the number of a test track, and its random choices
        {"tracks_per_class": 10**15},
        {"frames_per_track": 10**15},
        {"test_tracks_per_class": 10**9},
    ],
)
def test_absurd_numbers_are_rejected_before_anything_is_rendered(wrong: dict[str, int], tmp_path: Path) -> None:
    settings = {"tracks_per_class": 1, "frames_per_track": 1, "test_tracks_per_class": 1, "seed": 0} | wrong
    ((name, value),) = wrong.items()
    with pytest.raises(DataError, match=rf"10,000,000 images and 100,000 tracks.* {name} \({value:,}\)"):
        generate(tmp_path / "signs", **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"tracks_per_class": 0}, {"frames_per_track": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_rejected(wrong: dict[str, int], tmp_path: Path) -> None:
    settings = {"tracks_per_class": 1, "frames_per_track": 1, "test_tracks_per_class": 1, "seed": 0} | wrong
    ((name, value),) = wrong.items()
    with pytest.raises(DataError, match=rf"signs: .*{name} \({value}\)"):
        generate(tmp_path / "signs", **settings)
    assert list(tmp_path.iterdir()) == []
