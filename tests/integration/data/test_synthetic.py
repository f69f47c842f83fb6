"""Tests complete synthetic data sets."""

from pathlib import Path

import pytest

from src.mlops.data.synthetic.generate import generate
from tests.helpers.synthetic import contents, generate_small


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_small(tmp_path_factory.mktemp("synthetic") / "signs")


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_images(dataset: Path, tmp_path: Path) -> None:
    first, again = contents(dataset), contents(generate_small(tmp_path / "again"))
    other = contents(generate_small(tmp_path / "other", seed=8))
    assert first == again
    assert first.keys() == other.keys()
    assert not any(first[name] == other[name] for name in first if name.endswith(".png"))


def test_more_training_tracks_do_not_change_the_other_images(dataset: Path, tmp_path: Path) -> None:
    generate(tmp_path / "more", tracks_per_class=3, frames_per_track=2, test_tracks_per_class=1, seed=7)
    more = contents(tmp_path / "more")
    assert all(more[name] == image for name, image in contents(dataset).items() if name != "Train.csv")
