"""Images that are added to the data: those that the service collected."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from src.mlops.config import DataConfig
from src.mlops.data.additional import prepare_collected
from src.mlops.data.packing import Pack
from src.mlops.data.prepare import prepare
from src.mlops.errors import DataError
from tests.helpers.images import make_image
from tests.helpers.tiny import quick_config, tiny_overrides, write_kaggle


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    raw = write_kaggle(tmp_path / "raw")
    return quick_config([*tiny_overrides(tmp_path, raw), f"data.collected={tmp_path / 'collected'}"]).data


def write_export(folder: Path, labels: list[str], groups: int = 3) -> None:
    """Writes what `inv labels.export` writes: two frames of each physical sign."""
    (folder / "images").mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "class_id", "group"])
        for number, (label, group) in enumerate(
            (label, group) for label in labels for group in range(groups) for _ in range(2)
        ):
            make_image(number % 4, seed=5000 + number).save(folder / "images" / f"{number}.png")
            table.writerow([f"images/{number}.png", label, 0, f"{label}-{group}"])


def collected(data: DataConfig) -> Pack:
    pack = prepare_collected(data, prepare(data).classes)
    assert pack
    return pack


def test_the_classes_are_those_of_the_data_and_groups_stay_together(data: DataConfig, tmp_path: Path) -> None:
    pack = prepare(data)
    names = [pack.classes[1].name, pack.classes[3].name]
    write_export(tmp_path / "collected", names)
    found = collected(data)
    assert found.classes == pack.classes
    index = found.index()
    assert set(index["class_id"]) == {1, 3}
    assert set(index["split"]) == {"train", "val", "test"}
    assert (index.groupby("track_id")["split"].nunique() == 1).all()


def test_the_data_stays_as_it_is(data: DataConfig, tmp_path: Path) -> None:
    before = prepare(data.model_copy(update={"collected": None})).manifest
    write_export(tmp_path / "collected", ["1", "2"])
    collected(data)
    assert prepare(data).manifest == before


def test_more_images_are_noticed(data: DataConfig, tmp_path: Path) -> None:
    write_export(tmp_path / "collected", ["1"])
    first = collected(data).fingerprint
    assert collected(data).fingerprint == first
    shutil.rmtree(tmp_path / "collected")
    write_export(tmp_path / "collected", ["1", "2"])
    assert collected(data).fingerprint != first


def test_without_collected_images_there_is_no_pack(data: DataConfig) -> None:
    assert prepare_collected(data.model_copy(update={"collected": None}), prepare(data).classes) is None


def _not_there(_: Path) -> None:
    pass


def _empty(folder: Path) -> None:
    folder.mkdir()


def _too_few(folder: Path) -> None:
    write_export(folder, ["1", "2"], groups=1)


def _other_class(folder: Path) -> None:
    write_export(folder, ["Tractor", "1"])


def _broken(folder: Path) -> None:
    write_export(folder, ["1"])
    (folder / "images" / "0.png").write_bytes(b"broken")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_not_there, r"data\.collected=.* does not exist.*inv labels\.export"),
        (_empty, "is an empty folder"),
        (_too_few, "At least one class needs 3 groups"),
        (_other_class, r"class list of the data does not contain .*'Tractor'"),
        (_broken, r"images/0\.png"),
    ],
)
def test_bad_images(write: Callable[[Path], None], message: str, data: DataConfig, tmp_path: Path) -> None:
    write(tmp_path / "collected")
    with pytest.raises(DataError, match=message):
        collected(data)
