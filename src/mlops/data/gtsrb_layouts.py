"""Reads GTSRB in the folders of its archives: those of the benchmark, and the smaller ones of torchvision."""

import logging

import pandas as pd

from src.mlops.data.csv_table import GTSRB_COLUMNS, SIZES, is_gtsrb, read_rows, read_table
from src.mlops.data.listing import Listing
from src.mlops.data.raw_files import RawFiles
from src.mlops.errors import DataError

logger = logging.getLogger(__name__)
_TEST = "Final_Test/Images"
_TEST_TABLE = "GT-final_test.csv"


def read_gtsrb_folders(files: RawFiles) -> Listing | None:
    """Reads the layout of the benchmark's archives or of `torchvision.datasets.GTSRB`.

    Args:
        files: The files of a folder with the content of the archives, or of a folder `GTSRB` with it.

    Returns:
        The images, or None if the layout is another one.

    Raises:
        DataError: A CSV file with the classes of the images is missing or not valid.
    """
    for base in ("", "GTSRB/"):
        if f"{base}Final_Training/Images" in files.folders:
            return _read("official", base, f"{base}Final_Training/Images", files)
        training = f"{base}Training"
        if any(table.startswith(f"{training}/") and "/GT-" in table for table in files.tables):
            logger.warning(
                "%s has the smaller set of 26,640 training images that torchvision downloads. The benchmark has "
                "39,209, so results cannot be compared. Use data=official for the complete set",
                files.root,
            )
            return _read("torchvision", base, training, files)
    return None


def _read(layout: str, base: str, folder: str, files: RawFiles) -> Listing:
    classes = [path for path in files.folders if path.rpartition("/")[0] == folder]
    parts = [_rows(f"{path}/GT-{path.rpartition('/')[2]}.csv", path, "train", files) for path in classes]
    test_folder = base + _TEST
    if test_folder in files.folders:
        candidates = [f"{test_folder}/{_TEST_TABLE}", base + _TEST_TABLE, _TEST_TABLE]
        table = next((path for path in candidates if path in files.tables), candidates[0])
        parts.append(_rows(table, test_folder, "test", files))
    if not parts:
        raise DataError(f"{files.root / folder} contains no class folders. Unpack the archive again.")
    images = pd.concat(parts, ignore_index=True)
    listed = set(images["path"])
    present = [path for path in files.images if path.startswith((f"{folder}/", f"{test_folder}/"))]
    return Listing(
        layout=layout,
        images=images,
        labels=sorted(set(images["label"])),
        source="GTSRB's CSV files",
        gtsrb=True,
        unlisted=[path for path in present if path not in listed],
        unlabelled=[],
        unused=[],
    )


def _rows(table: str, folder: str, split: str, files: RawFiles) -> pd.DataFrame:
    csv = files.root / table
    if table not in files.tables:
        hint = (
            "It is in the separate archive GTSRB_Final_Test_GT.zip" if split == "test" else "Unpack the archive again"
        )
        raise DataError(f"{csv} with the classes of the images is missing. {hint}.")
    frame = read_table(csv)
    if not is_gtsrb(frame, "Filename"):
        raise DataError(
            f"{csv} must have the columns Filename, {', '.join(GTSRB_COLUMNS)}, but has {', '.join(frame.columns)}."
        )
    rows = read_rows(frame, csv, "Filename", "ClassId")
    if (elsewhere := rows["path"].str.contains(r"[/\\]")).any():
        raise DataError(
            f"Line {elsewhere.idxmax()} of {csv} must have a file name, not {rows['path'][elsewhere].iloc[0]!r}."
        )
    if rows["path"].duplicated().any():
        raise DataError(f"{csv} lists {rows['path'][rows['path'].duplicated()].iloc[0]} more than once.")
    rows["path"] = f"{folder}/" + rows["path"]
    rows["split"] = split
    rows["group"] = ""
    return rows[["path", "label", "split", "group", *SIZES]]
