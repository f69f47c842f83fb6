"""Reads any known folder layout into one table of images.

A table is a pandas frame with the columns `COLUMNS` and one row per image: `path` relative to the raw folder, with `/`;
`class_id`; `track_id`, the same for all frames of one physical sign; `width` and `height` in px; the sign's bounding
box `roi_x1 roi_y1 roi_x2 roi_y2` in px. Layouts without sizes and bounding boxes set these columns to 0.
"""

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from src.mlops.data.classes import ClassList
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.packing import MANIFEST
from src.mlops.errors import DataError
from src.mlops.io.files import find_files, warn_about_special
from src.mlops.preprocessing import image_suffixes

logger = logging.getLogger(__name__)
COLUMNS = ["path", "class_id", "track_id", "width", "height", "roi_x1", "roi_y1", "roi_x2", "roi_y2"]
# Maps column names in the CSV files (of the benchmark, of Kaggle, and of this project's splits) to `COLUMNS`.
CSV_COLUMNS = {
    "Width": "width",
    "Height": "height",
    "Roi.X1": "roi_x1",
    "Roi.Y1": "roi_y1",
    "Roi.X2": "roi_x2",
    "Roi.Y2": "roi_y2",
    "ClassId": "class_id",
}
EXPECTED = (
    "Supported layouts: Train.csv and Test.csv with Train/ and Test/ (Kaggle); Final_Training/Images and "
    "Final_Test/Images (official archives); folders of images named by class, 0 to 42, directly or in train/ and test/."
)
_FRAME = re.compile(r"^(?:\d{5}_)?(\d{5})_(\d{5})$")


class RawData(NamedTuple):
    """The images of a raw folder.

    Attributes:
        layout: Name of the layout.
        classes: The class list.
        train: Table of the images for training and validation.
        test: Table of the test images; empty if the folder has none.
        unlisted: Images in the folder that no table lists.
    """

    layout: str
    classes: ClassList
    train: pd.DataFrame
    test: pd.DataFrame
    unlisted: list[str]


def read_layout(raw_dir: Path) -> RawData:
    """Detects the layout of a folder and reads its tables without opening any image.

    Args:
        raw_dir: Folder of the raw images.

    Raises:
        DataError: The folder is missing or empty, its layout is unknown, or a table is corrupted.
    """
    if not raw_dir.is_dir():
        raise DataError(f"data.raw_dir={raw_dir} is not an existing folder. Set it to the folder of the images.")
    # The official archives contain a top folder, GTSRB, and may have been unpacked together with it.
    for root in (raw_dir, raw_dir / "GTSRB"):
        if any((root / name).is_file() for name in ("Train.csv", "Test.csv", "train.csv", "test.csv")):
            raw = _read_kaggle(root)
        elif (root / "Final_Training" / "Images").is_dir():
            raw = _read_official(root)
        elif any((root / name).is_dir() for name in ("train", "Train")) or _class_folders(root):
            raw = _read_folders(root)
        else:
            continue
        if raw.train.empty:
            raise DataError(f"{root} has the {raw.layout} layout, but contains no training images. {EXPECTED}")
        prefix = "" if root == raw_dir else f"{root.name}/"
        for table in (raw.train, raw.test):
            table["path"] = prefix + table["path"]
        return raw._replace(unlisted=[prefix + path for path in raw.unlisted])
    found = sorted(path.name for path in raw_dir.iterdir())[:5]
    content = f"has no supported layout; it contains {', '.join(found)}" if found else "is an empty folder"
    raise DataError(f"{raw_dir} {content}. {EXPECTED}")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Writes a table with the columns of Kaggle's CSV files."""
    renamed = table.rename(columns={ours: theirs for theirs, ours in CSV_COLUMNS.items()} | {"path": "Path"})
    renamed[[*CSV_COLUMNS, "Path"]].to_csv(path, index=False)


def _read_kaggle(root: Path) -> RawData:
    frames = []
    for name in ("Train", "Test"):
        # Test.csv and its images may both be missing. A test set is then held out of the training images.
        csv = next((path for path in (root / f"{name}.csv", root / f"{name.lower()}.csv") if path.is_file()), None)
        if csv is None and (name == "Train" or (root / name).is_dir()):
            raise DataError(f"{root / name}.csv with the classes of the images is missing.")
        frame = None
        if csv:
            frame = _read_csv(csv, ",", "Path")
            frame["path"] = frame["Path"].str.replace("\\", "/").str.removeprefix("./")
        frames.append(_table(frame))
    return _raw("Kaggle", root, ("Train", "Test"), *frames)


def _read_official(root: Path) -> RawData:
    frames = []
    folder = root / "Final_Training" / "Images"
    for class_dir in sorted(path for path in folder.iterdir() if path.is_dir()):
        csv = class_dir / f"GT-{class_dir.name}.csv"
        if not csv.is_file():
            raise DataError(f"The ground truth {csv} is missing. Unpack the archive again.")
        frame = _read_csv(csv, ";", "Filename")
        frame["path"] = f"Final_Training/Images/{class_dir.name}/" + frame["Filename"]
        frames.append(frame)
    train = _table(pd.concat(frames, ignore_index=True) if frames else None)
    test_folder = root / "Final_Test" / "Images"
    test = None
    if test_folder.is_dir():
        candidates = [test_folder / "GT-final_test.csv", root / "GT-final_test.csv"]
        csv = next((path for path in candidates if path.is_file()), candidates[0])
        if not csv.is_file():
            raise DataError(
                f"The ground truth of the test images, {csv}, is missing. "
                "It is in the separate archive GTSRB_Final_Test_GT.zip."
            )
        test = _read_csv(csv, ";", "Filename")
        test["path"] = "Final_Test/Images/" + test["Filename"]
    return _raw("official", root, ("Final_Training/Images", "Final_Test/Images"), train, _table(test))


def _read_folders(root: Path) -> RawData:
    tables = []
    for names in (("train", "Train"), ("test", "Test")):
        folder = next((root / name for name in names if (root / name).is_dir()), None)
        if folder is None and names[0] == "train":
            folder = root
        _refuse_other_folders(folder, root)
        depth = len(folder.relative_to(root).parts) if folder else 0
        rows = [
            {"path": path, "class_id": int(path.split("/")[depth])}
            for path in _images(_class_folders(folder) if folder else [], root)
        ]
        tables.append(_table(pd.DataFrame(rows) if rows else None))
    if (tables[0]["track_id"] == tables[0]["path"]).any():
        logger.warning(
            "Some file names in %s do not have the form TRACK_FRAME.png (example: 00003_00012.png), so there is no "
            "way to tell which images show the same physical sign. These images are assigned to the splits "
            "individually, so the validation accuracy will be inflated if several of them show the same sign",
            root,
        )
    return _raw("class folders", root, (), *tables)


def _read_csv(csv: Path, separator: str, path_column: str) -> pd.DataFrame:
    try:
        frame = pd.read_csv(csv, sep=separator, index_col=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {csv} as a table separated by '{separator}': {error}.") from error
    missing = [name for name in [*CSV_COLUMNS, path_column] if name not in frame.columns]
    if missing:
        raise DataError(
            f"Missing columns in {csv}: {', '.join(missing)}. The required columns are "
            f"{', '.join([*CSV_COLUMNS, path_column])}; the file has {', '.join(map(str, frame.columns))}."
        )
    numbers = frame[list(CSV_COLUMNS)].apply(pd.to_numeric, errors="coerce")
    bad = numbers.isna().any(axis=1) | frame[path_column].isna() | (numbers % 1 != 0).any(axis=1)
    if bad.any():
        line = int(bad.idxmax()) + 2
        raise DataError(
            f"Line {line} of {csv} is invalid: {path_column} must not be empty, and {', '.join(CSV_COLUMNS)} must be "
            "whole numbers."
        )
    frame[list(CSV_COLUMNS)] = numbers.astype("int64")
    frame[path_column] = frame[path_column].astype(str)
    repeated = frame[path_column].duplicated()
    if repeated.any():
        raise DataError(f"{csv} lists {frame[path_column][repeated].iloc[0]} more than once.")
    return frame.rename(columns=CSV_COLUMNS)


def _table(frame: pd.DataFrame | None) -> pd.DataFrame:
    if frame is None:
        frame = pd.DataFrame({"path": pd.Series(dtype=str)})
    table = frame.reindex(columns=COLUMNS, fill_value=0)
    table["track_id"] = [
        _track(path, class_id) for path, class_id in zip(table["path"], table["class_id"], strict=True)
    ]
    outside = ~table["class_id"].between(0, len(SIGNS) - 1)
    if outside.any():
        row = table[outside].iloc[0]
        raise DataError(
            f"{row['path']} has the class id {row['class_id']}, but class ids must be 0 to {len(SIGNS) - 1}."
        )
    return table.reset_index(drop=True)


def _track(path: str, class_id: int) -> str:
    """Returns the name of the physical sign in a frame, or the path if the file name does not contain a track."""
    stem = path.rpartition("/")[2].rpartition(".")[0]
    frame = _FRAME.match(stem)
    return f"{class_id:05d}_{frame[1]}" if frame else path


def _raw(layout: str, root: Path, folders: tuple[str, ...], train: pd.DataFrame, test: pd.DataFrame) -> RawData:
    listed = set(train["path"]) | set(test["path"])
    present = _images((root / folder for folder in folders), root)
    return RawData(layout, SIGNS, train, test, sorted(path for path in present if path not in listed))


def _refuse_other_folders(folder: Path | None, root: Path) -> None:
    ours = {"train", "Train", "test", "Test"} if folder == root else set()
    others = [path for path in folder.iterdir() if path.is_dir() and not path.name.isdecimal()] if folder else []
    # data.processed_dir may be a subfolder of data.raw_dir.
    others = [path for path in others if not (path / MANIFEST).is_file()]
    unknown = sorted(path.name for path in others if path.name not in ours and not path.name.startswith("."))
    if unknown:
        raise DataError(f"{folder} contains folders whose names are not class IDs (0 to 42): {', '.join(unknown)}.")


def _class_folders(root: Path) -> list[Path]:
    folders = [path for path in root.iterdir() if path.is_dir() and path.name.isdecimal()] if root.is_dir() else []
    return sorted(folders, key=lambda path: int(path.name))


def _images(folders: Iterable[Path], root: Path) -> list[str]:
    """Lists all images below folders, recognised by suffix, as paths relative to `root`, sorted in each folder."""
    suffixes = image_suffixes()
    special: list[str] = []
    found: list[str] = []
    for folder in folders:
        prefix, start = folder.relative_to(root).as_posix(), len(str(folder))
        found += sorted(prefix + path[start:].replace(os.sep, "/") for path in find_files(folder, suffixes, special))
    warn_about_special(special)
    return found
