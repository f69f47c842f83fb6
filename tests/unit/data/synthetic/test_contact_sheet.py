"""Tests the contact sheets of the signs."""

from pathlib import Path

import pytest
from PIL import Image

from src.mlops.data.synthetic.contact_sheet import write_sign_sheets
from src.mlops.errors import DataError
from tests.helpers.synthetic import generate_small
from tests.helpers.tiny import write_kaggle


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_small(tmp_path_factory.mktemp("photographs") / "signs")


def test_sheets_of_the_signs(tmp_path: Path) -> None:
    large, small = write_sign_sheets(tmp_path / "new")
    assert (large.name, small.name) == ("signs_200px.png", "signs_32px.png")
    with Image.open(large) as image, Image.open(small) as other:
        assert image.width > 2000
        assert image.width > 5 * other.width


def test_a_sheet_with_photographs(tmp_path: Path, photographs: Path) -> None:
    *_, sheet = write_sign_sheets(tmp_path, photographs)
    assert sheet.name == "signs_photographs.png"
    first = sheet.read_bytes()
    write_sign_sheets(tmp_path, photographs)
    assert sheet.read_bytes() == first


def test_images_with_other_classes_are_rejected(tmp_path: Path) -> None:
    other = tmp_path / "other"
    for name in ("cat", "dog"):
        (other / name).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(other / name / "1.png")
    with pytest.raises(DataError, match="must have the classes of GTSRB, but have others: 2 classes instead of 43"):
        write_sign_sheets(tmp_path / "out", other)
    assert not (tmp_path / "out").exists()


def test_classes_can_have_few_images_or_none(tmp_path: Path) -> None:
    raw = write_kaggle(tmp_path / "raw", classes=4, tracks=2, frames=1)
    assert len(write_sign_sheets(tmp_path / "out", raw)) == 3


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    raw = write_kaggle(tmp_path / "raw")
    for path in (raw / "Train/0").glob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"^Cannot read .*Train.0.*\.png: "):
        write_sign_sheets(tmp_path / "out", raw)


def test_a_missing_folder_and_one_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        write_sign_sheets(tmp_path, tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"^Cannot write .*signs_200px\.png: "):
        write_sign_sheets(tmp_path / "file")
