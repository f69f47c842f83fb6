"""Reads any known folder layout into tables of images.

A table is a pandas frame with the columns `COLUMNS` and one row per image: `path` relative to the raw folder, with `/`;
`class_id`; `track_id`, the same for all images that belong together, such as the frames of one physical sign; `width`
and `height` in px; the bounding box of the object, `roi_x1 roi_y1 roi_x2 roi_y2`, in px. Layouts without sizes and
bounding boxes set these columns to 0.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from src.mlops.data.classes import CLASSES_FILE, ClassList
from src.mlops.data.csv_layout import read_csv_layout
from src.mlops.data.csv_table import GTSRB_COLUMNS, SIZES
from src.mlops.data.folder_layout import read_folders
from src.mlops.data.gtsrb_layouts import read_gtsrb_folders
from src.mlops.data.labels import FRAME, find_classes
from src.mlops.data.listing import Listing
from src.mlops.data.raw_files import SPLIT_NAMES, RawFiles, list_files
from src.mlops.errors import DataError

logger = logging.getLogger(__name__)
COLUMNS = ["path", "class_id", "track_id", *SIZES]
EXPECTED = (
    "Supported layouts: one folder per class, directly or in train/, val/ and test/; a CSV file with paths and labels, "
    "or train.csv, val.csv and test.csv; and GTSRB as in its official archives (Final_Training/Images), from Kaggle "
    "(Train.csv) or from torchvision. See docs/reference/data.md."
)


class RawData(NamedTuple):
    """The images of a raw folder.

    Attributes:
        layout: Name of the layout.
        classes: The class list.
        classes_from: Where the class list is from, for people.
        train: Table of the images for training. If there are no others, validation and test images are held out of it.
        val: Table of the given validation images; empty if the folder has none.
        test: Table of the test images; empty if the folder has none.
        unlisted: Images that should have a label, but have none.
        unlabelled: Images to predict only.
        skipped: Numbers of files that were not read: `hidden` (also those of operating systems), `other` (no images)
            and `unused_images` (in folders that do not belong to the data).
    """

    layout: str
    classes: ClassList
    classes_from: str
    train: pd.DataFrame
    val: pd.DataFrame
    test: pd.DataFrame
    unlisted: list[str]
    unlabelled: list[str]
    skipped: dict[str, int]


def read_layout(
    raw_dir: Path,
    path_column: str | None = None,
    label_column: str | None = None,
    skip: Path | None = None,
    classes: ClassList | None = None,
) -> RawData:
    """Detects the layout of a folder and reads its tables without opening any image.

    Args:
        raw_dir: Folder of the raw images.
        path_column: Column of CSV files with the paths; None: a usual name.
        label_column: Column of CSV files with the labels; None: a usual name.
        skip: Folder to leave out, in which prepared data will be.
        classes: The class list, of which the images need not show all classes; None: the one in the folder.

    Raises:
        DataError: The folder is missing or empty, its layout is unknown, or its tables or classes are not valid.
    """
    if not raw_dir.is_dir():
        raise DataError(
            f"data.raw_dir={raw_dir} is not an existing folder or archive. Set it to the folder of the images."
        )
    everything = list_files(raw_dir, skip)
    if not everything.images and all(map(_is_class_file, everything.tables)):
        inside = (*everything.folders, *everything.tables, *everything.others, *everything.hidden)
        found = sorted(path for path in inside if "/" not in path)[:5]
        content = f"contains no images; it contains {', '.join(found)}" if found else "is an empty folder"
        raise DataError(f"{raw_dir} {content}. {EXPECTED}")
    files, listing = _detect(everything, path_column, label_column)
    if not (listing.images["split"] == "train").any():
        loose = listing.unlisted[:1] if listing.layout == "class folders" else []
        example = f" in class folders; {loose[0]} is in none" if loose else ""
        raise DataError(
            f"{files.root} has the layout {listing.layout}, but contains no training images{example}. {EXPECTED}"
        )
    labels = find_classes(listing, files.root, _class_file(files, everything), classes)

    images = listing.images.assign(class_id=listing.images["label"].map(labels.ids).astype("int64"))
    if listing.layout == "class folders":
        images = images.sort_values(["class_id", "path"], ignore_index=True)
    prefix = "" if files.root == raw_dir else f"{files.root.relative_to(raw_dir).as_posix()}/"
    images["path"] = prefix + images["path"]
    images["track_id"] = [
        _track(*row) for row in zip(*(images[name].tolist() for name in ("path", "class_id", "group")), strict=True)
    ]
    split = images["split"]
    return RawData(
        layout=listing.layout,
        classes=labels.classes,
        classes_from=labels.source,
        **{name: images.loc[split == name, COLUMNS].reset_index(drop=True) for name in ("train", "val", "test")},
        unlisted=sorted(prefix + path for path in listing.unlisted),
        unlabelled=[prefix + path for path in listing.unlabelled],
        skipped={
            "hidden": len(everything.hidden),
            "other": len(everything.others),
            "unused_images": len(listing.unused),
        },
    )


def warn_about_groups(images: pd.DataFrame, raw_dir: Path) -> None:
    """Warns if images are assigned to splits individually, or if groups cross the given splits.

    Args:
        images: All images with their given `split`.
        raw_dir: The raw folder, for messages.
    """
    given = set(images["split"])
    alone = (images["split"] == "train") & (images["track_id"] == images["path"])
    if not {"val", "test"} <= given and alone.any():
        logger.warning(
            "Nothing says which of the images in %s belong together, for example because they show the same object or "
            "scene: file names such as %s do not have the form TRACK_FRAME.png (example: 00003_00012.png), and no CSV "
            "file has a column 'group'. These images are assigned to the splits individually, so the validation "
            "accuracy will be inflated if several of them show the same thing",
            raw_dir,
            images["path"][alone].iloc[0],
        )
    crossing = images.groupby("track_id")["split"].nunique() > 1
    if crossing.any():
        logger.warning(
            "Groups of images that belong together are in several of the given splits: %d, for example %s. They are "
            "used as given, so the accuracy can be inflated",
            crossing.sum(),
            crossing.idxmax(),
        )


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Writes a table with the columns of Kaggle's CSV files."""
    names = dict(zip([*SIZES, "class_id", "path"], [*GTSRB_COLUMNS, "Path"], strict=True))
    table.rename(columns=names)[list(names.values())].to_csv(path, index=False)


def _detect(files: RawFiles, path_column: str | None, label_column: str | None) -> tuple[RawFiles, Listing]:
    """Reads the layout of a folder, or of the only folder in it, and returns the files of that folder as well."""
    listing = read_gtsrb_folders(files)
    while listing is None and (folder := _only_folder(files)):
        files = files.below(folder)
        listing = read_gtsrb_folders(files)
    listing = listing or read_csv_layout(files, path_column, label_column) or read_folders(files)
    if listing is None:
        raise DataError(
            f"{files.root} has no supported layout: there are images such as {files.images[0]}, but neither class "
            f"folders nor a CSV file with labels. {EXPECTED}"
        )
    return files, listing


def _class_file(files: RawFiles, everything: RawFiles) -> Path | None:
    """Returns the path of `classes.csv`, in any case: next to the images, or in the raw folder; None: there is none."""
    found = [place.root / name for place in (files, everything) for name in place.top_tables if _is_class_file(name)]
    if not found and (elsewhere := next(filter(_is_class_file, everything.tables), None)):
        logger.warning(
            "%s in %s is not used. Move it next to the folders of the classes or splits", elsewhere, everything.root
        )
    return next(iter(found), None)


def _is_class_file(path: str) -> bool:
    return path.rpartition("/")[2].lower() == CLASSES_FILE


def _only_folder(files: RawFiles) -> str | None:
    """Returns the only folder with images, such as the top folder of an archive; None if images are in others as well.

    A folder named like a split is one, and a folder that directly contains images but no CSV file is a class.
    """
    tops = {path.partition("/")[0] for path in files.images}
    if len(tops) != 1 or files.top_tables:
        return None
    (folder,) = tops
    inside = files.below(folder)
    flat = any("/" not in path for path in inside.images)
    if folder in files.images or folder.lower() in SPLIT_NAMES or (flat and not inside.top_tables):
        return None
    return folder


def _track(path: str, class_id: int, group: str) -> str:
    """Returns the name of what is in an image, or the path if neither a group nor the file name says it."""
    if group:
        return group
    frame = FRAME.fullmatch(path.rpartition("/")[2].rpartition(".")[0])
    return f"{class_id:05d}_{frame[1]}" if frame else path
