"""Reads images that CSV files list: one file for all images, or one for each split. Kaggle's layout of GTSRB is one."""

import logging
from pathlib import Path

import pandas as pd

from src.mlops.data.classes import CLASSES_FILE
from src.mlops.data.csv_paths import ImagePaths
from src.mlops.data.csv_table import SIZES, find_column, is_gtsrb, no_column, read_rows, read_table
from src.mlops.data.listing import Listing
from src.mlops.data.raw_files import SPLIT_NAMES, RawFiles
from src.mlops.errors import DataError

logger = logging.getLogger(__name__)


def read_csv_layout(files: RawFiles, path_column: str | None, label_column: str | None) -> Listing | None:
    """Reads the CSV files directly in the folder.

    `train.csv`, `val.csv` and `test.csv` list one split each. Otherwise, one file lists all images, and can have a
    column `split`.

    Args:
        files: The files of the folder.
        path_column: Name of the column with the paths; None: a usual name.
        label_column: Name of the column with the labels; None: a usual name.

    Returns:
        The images, or None if there is no CSV file with paths and labels, but class folders may exist.

    Raises:
        DataError: A CSV file is not valid, or there are several and it is not clear which one to read.
    """
    tables = {name: read_table(files.root / name) for name in files.top_tables if name.lower() != CLASSES_FILE}
    if label_column is None:
        _remove_predictions(tables, files)
    chosen = _choose(tables, files, path_column, label_column)
    if not chosen:
        return None
    gtsrb = all(is_gtsrb(frame, "Path") for name, frame in tables.items() if chosen.get(name) == "train")
    if gtsrb and "test" not in chosen.values() and any(name in files.top_folders for name in ("Test", "test")):
        raise DataError(f"{files.root / 'Test.csv'} with the classes of the images in the folder Test is missing.")

    paths = ImagePaths(files)
    parts = []
    for name, split in chosen.items():
        csv = files.root / name
        if split != "test" and find_column(tables[name], "label", label_column) is None:
            raise no_column(csv, tables[name], "labels", "label_column", label_column)
        rows = read_rows(tables[name], csv, path_column, label_column)
        rows["split"] = _splits(rows["split"], csv) if split == "train" and (rows["split"] != "").any() else split
        rows["path"] = paths.find(rows["path"], csv)
        _require_labels(rows, csv)
        parts.append(rows)
    images = pd.concat(parts, ignore_index=True)
    if (repeated := images["path"].duplicated()).any():
        raise DataError(f"{', '.join(chosen)} in {files.root} lists {images['path'][repeated].iloc[0]} more than once.")

    labelled = images[images["label"] != ""].reset_index(drop=True)
    unlabelled = images.loc[images["label"] == "", "path"].tolist()
    unlisted, without_table, unused = _unlisted(files, set(images["path"]), tested="test" in set(images["split"]))
    return Listing(
        layout="Kaggle" if gtsrb else "CSV",
        images=labelled[["path", "label", "split", "group", *SIZES]],
        labels=sorted(set(labelled["label"])),
        source=f"the labels in {next(iter(chosen))}",
        gtsrb=gtsrb,
        unlisted=unlisted,
        unlabelled=unlabelled + without_table,
        unused=unused,
    )


def _remove_predictions(tables: dict[str, pd.DataFrame], files: RawFiles) -> None:
    """Removes what `inv predict` and `inv data.label-errors` write: predictions must not become labels by accident."""
    for name in [name for name, frame in tables.items() if "predicted_class" in frame.columns]:
        logger.warning(
            "%s is not read, because it contains predictions. To use one of its columns as labels, set "
            "data.label_column",
            files.root / name,
        )
        del tables[name]


def _choose(
    tables: dict[str, pd.DataFrame], files: RawFiles, path_column: str | None, label_column: str | None
) -> dict[str, str]:
    """Returns the split of each CSV file to read; `train` for a file with all images."""
    chosen: dict[str, str] = {}
    for name in tables:
        split = SPLIT_NAMES.get(Path(name).stem.lower())
        if split in chosen.values():
            other = next(key for key, value in chosen.items() if value == split)
            raise DataError(f"{files.root} contains {other} and {name}, which mean the same split. Remove one of them.")
        if split:
            chosen[name] = split
    if "train" not in chosen.values():
        if any(is_gtsrb(tables[name], "Path") for name in chosen):
            raise DataError(
                f"{files.root / 'Train.csv'} with the classes of the images in the folder Train is missing."
            )
        complete = [
            name
            for name in tables.keys() - chosen.keys()
            if find_column(tables[name], "path", path_column) and find_column(tables[name], "label", label_column)
        ]
        if len(complete) > 1:
            raise DataError(
                f"{files.root} contains several CSV files with paths and labels: {', '.join(sorted(complete))}. Remove "
                "all but one, or name them train.csv, val.csv and test.csv."
            )
        if not complete:
            return _refuse_incomplete(tables, chosen, files, path_column, label_column)
        chosen[complete[0]] = "train"
    order = ("train", "val", "test")
    return dict(sorted(chosen.items(), key=lambda item: order.index(item[1])))


def _refuse_incomplete(
    tables: dict[str, pd.DataFrame],
    chosen: dict[str, str],
    files: RawFiles,
    path_column: str | None,
    label_column: str | None,
) -> dict[str, str]:
    """Says why no CSV file can be read, unless the classes may be in folders."""
    if path_column is None and label_column is None and len({path.rpartition("/")[0] for path in files.images}) > 1:
        return {}
    for name, frame in tables.items():
        if name in chosen:
            raise DataError(f"{files.root} contains {name}, but no train.csv with the training images.")
        for kind, content, column in (("path", "paths of the images", path_column), ("label", "labels", label_column)):
            if not find_column(frame, kind, column):
                raise no_column(files.root / name, frame, content, f"{kind}_column", column)
    return {}


def _splits(values: pd.Series, csv: Path) -> pd.Series:
    splits = values.str.lower().map(SPLIT_NAMES)
    if splits.isna().any():
        line, value = next(values[splits.isna()].items())
        raise DataError(
            f"Line {line} of {csv} has the split {value!r}, but the column can only contain train, val and test."
        )
    return splits


def _require_labels(rows: pd.DataFrame, csv: Path) -> None:
    missing = (rows["label"] == "") & (rows["split"] != "test")
    if missing.any():
        raise DataError(
            f"Line {missing.idxmax()} of {csv} has no label. Only test images can be without one; they are not "
            "evaluated, but can be predicted."
        )


def _unlisted(files: RawFiles, listed: set[str], tested: bool) -> tuple[list[str], list[str], list[str]]:
    """Returns the images in no CSV file: those next to listed ones, those to predict, and those in other folders.

    Images to predict are in a folder for test images, if there are no other test images. Folders without any listed
    image, such as one with drawings of the classes, do not belong to the data.
    """
    used = {_top(path) for path in listed}
    missing = [path for path in files.images if path not in listed]
    unlisted = [path for path in missing if _top(path) in used]
    others = [path for path in missing if _top(path) not in used]
    to_predict = [path for path in others if not tested and SPLIT_NAMES.get(_top(path).lower()) == "test"]
    return unlisted, to_predict, sorted(set(others) - set(to_predict))


def _top(path: str) -> str:
    return path.partition("/")[0] if "/" in path else ""
