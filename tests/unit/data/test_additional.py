"""Images that are added to the data: those that the service collected."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from src.mlops.config import DataConfig
from src.mlops.data.additional import prepare_collected
from src.mlops.data.packing import Pack
from src.mlops.data.prepare import prepare
from src.mlops.errors import DataError
from tests.helpers.tiny import quick_config, tiny_overrides, write_collected, write_kaggle


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    raw = write_kaggle(tmp_path / "raw")
    return quick_config([*tiny_overrides(tmp_path, raw), f"data.collected={tmp_path / 'collected'}"]).data


def collected(data: DataConfig) -> Pack:
    pack = prepare_collected(data, prepare(data))
    assert pack
    return pack


def test_the_classes_are_those_of_the_data_and_groups_stay_together(
    data: DataConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pack = prepare(data)
    names = [pack.classes[1].name, pack.classes[3].name]
    write_collected(tmp_path / "collected", names)
    caplog.set_level("INFO")
    found = collected(data)
    assert found.classes == pack.classes
    index = found.index()
    assert f"{(index['split'] == 'test').sum()} of the collected images were held out for testing" in caplog.text
    assert set(index["class_id"]) == {1, 3}
    assert set(index["split"]) == {"train", "val", "test"}
    assert (index.groupby("track_id")["split"].nunique() == 1).all()


def test_the_data_stays_as_it_is(data: DataConfig, tmp_path: Path) -> None:
    before = prepare(data.model_copy(update={"collected": None})).manifest
    write_collected(tmp_path / "collected", ["1", "2"])
    collected(data)
    assert prepare(data).manifest == before


def test_more_images_are_noticed(data: DataConfig, tmp_path: Path) -> None:
    write_collected(tmp_path / "collected", ["1"])
    first = collected(data).fingerprint
    assert collected(data).fingerprint == first
    shutil.rmtree(tmp_path / "collected")
    write_collected(tmp_path / "collected", ["1", "2"])
    assert collected(data).fingerprint != first


def test_signs_that_the_data_has_are_left_out(
    data: DataConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_collected(tmp_path / "collected", ["1", "2"], groups=4)
    raw, images = tmp_path / "raw", tmp_path / "collected" / "images"
    shutil.copy(raw / "Test" / "00003.png", images / "0.png")  # the first of two frames
    shutil.copy(raw / "Train" / "1" / "00001_00000_00000.png", images / "2.png")
    index = collected(data).index().set_index("path")["split"]
    assert set(index[[f"images/{number}.png" for number in range(4)]]) == {"leak"}
    assert set(index.drop([f"images/{number}.png" for number in range(4)])) == {"train", "val", "test"}
    assert "Left out 4 of the images" in caplog.text
    report = (data.processed_dir / "collected" / "report.md").read_text()
    assert "`images/0.png` is identical to `Test/00003.png`" in report
    assert "`images/2.png` is identical to `Train/1/00001_00000_00000.png`" in report


def test_images_that_data_exclude_has_left_out_can_be_collected_again(data: DataConfig, tmp_path: Path) -> None:
    name = "Train/1/00001_00000_00000.png"
    (tmp_path / "exclude.csv").write_text(f"path\n{name}\n")
    write_collected(tmp_path / "collected", ["1"])
    shutil.copy(tmp_path / "raw" / name, tmp_path / "collected" / "images" / "0.png")
    assert "leak" not in set(collected(data.model_copy(update={"exclude": tmp_path / "exclude.csv"})).index()["split"])


def test_new_data_can_have_collected_images(data: DataConfig, tmp_path: Path) -> None:
    write_collected(tmp_path / "collected", ["1"], groups=6)
    assert "leak" not in set(collected(data).index()["split"])
    shutil.copy(tmp_path / "collected" / "images" / "0.png", tmp_path / "raw" / "Test" / "00003.png")
    with (tmp_path / "raw" / "Train.csv").open("a") as file:
        file.write("30,30,3,3,27,27,1,Train/1/00001_00009_00000.png\n")
    shutil.copy(tmp_path / "collected" / "images" / "2.png", tmp_path / "raw" / "Train/1/00001_00009_00000.png")
    assert (collected(data).index()["split"] == "leak").sum() == 4


def test_groups_stay_in_their_split_when_others_are_collected(data: DataConfig, tmp_path: Path) -> None:
    write_collected(tmp_path / "collected", ["1", "2"], groups=20)
    before = collected(data).index().groupby("track_id")["split"].first()
    shutil.rmtree(tmp_path / "collected")
    write_collected(tmp_path / "collected", ["0", "1", "2"], groups=40)
    after = collected(data).index().groupby("track_id")["split"].first()
    assert (after[before.index] == before).all()
    assert set(after) == {"train", "val", "test"}
    assert 0.05 < (after == "test").mean() < 0.35


@pytest.mark.parametrize("groups", [3, 4])
def test_few_groups_are_in_all_splits(groups: int, data: DataConfig, tmp_path: Path) -> None:
    write_collected(tmp_path / "collected", ["1"], groups=groups)
    assert set(collected(data).index()["split"]) == {"train", "val", "test"}


def test_without_collected_images_there_is_no_pack(data: DataConfig) -> None:
    assert prepare_collected(data.model_copy(update={"collected": None}), prepare(data)) is None


def _not_there(_: Path) -> None:
    pass


def _empty(folder: Path) -> None:
    folder.mkdir()


def _too_few(folder: Path) -> None:
    write_collected(folder, ["1", "2"], groups=1)


def _other_class(folder: Path) -> None:
    write_collected(folder, ["Tractor", "1"])


def _known(folder: Path) -> None:
    shutil.copytree(folder.parent / "raw" / "Train", folder)


def _broken(folder: Path) -> None:
    write_collected(folder, ["1"])
    (folder / "images" / "0.png").write_bytes(b"broken")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_not_there, r"data\.collected=.* does not exist.*inv labels\.export"),
        (_empty, "is an empty folder"),
        (_too_few, "Three groups of images that the data does not have yet are needed"),
        (_other_class, r"class list of the data does not contain .*'Tractor'"),
        (_known, "are in the data already, so there are none to add"),
        (_broken, r"images/0\.png"),
    ],
)
def test_bad_images(write: Callable[[Path], None], message: str, data: DataConfig, tmp_path: Path) -> None:
    write(tmp_path / "collected")
    with pytest.raises(DataError, match=message):
        collected(data)
