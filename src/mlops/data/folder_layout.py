"""Reads class folders, directly in the raw folder or in `train/`, `val/` and `test/`."""

import pandas as pd

from src.mlops.data.csv_table import SIZES
from src.mlops.data.listing import Listing
from src.mlops.data.raw_files import SPLIT_NAMES, RawFiles
from src.mlops.errors import DataError


def read_folders(files: RawFiles) -> Listing | None:
    """Reads class folders. Folders in a class folder belong to its class.

    Folders with the names of splits are taken as splits if one of them contains folders, or if there are no others. So
    `train` can also be a class, next to `bus` and `car`.

    Returns:
        The images, or None if there are no folders.

    Raises:
        DataError: There are folders that are neither splits nor classes, or two folders for one split.
    """
    top = files.top_folders
    if not top:
        return None
    parents = {folder.partition("/")[0] for folder in files.folders if "/" in folder}
    splits = {name: SPLIT_NAMES[name.lower()] for name in top if name.lower() in SPLIT_NAMES}
    if not splits or not (parents & splits.keys() or len(splits) == len(top)):
        splits = {}
    _require_usable(splits, files)

    depth = 1 if splits else 0
    rows, unlisted, unlabelled = [], [], []
    for path in files.images:
        parts = path.split("/")
        split = splits.get(parts[0], "train")
        if len(parts) > depth + 1:
            rows.append((path, parts[depth], split))
        elif len(parts) == 2 and split == "test":
            unlabelled.append(path)
        else:
            unlisted.append(path)
    classes = [folder.split("/") for folder in files.folders]
    labels = {parts[depth] for parts in classes if len(parts) == depth + 1 and (not splits or parts[0] in splits)}
    images = pd.DataFrame(rows, columns=["path", "label", "split"], dtype=str).assign(
        group="", **dict.fromkeys(SIZES, 0)
    )
    return Listing(
        "class folders", images, sorted(labels), "the names of the class folders", False, unlisted, unlabelled, []
    )


def _require_usable(splits: dict[str, str], files: RawFiles) -> None:
    names = {split: [name for name, other in splits.items() if other == split] for split in splits.values()}
    if twice := [folders for folders in names.values() if len(folders) > 1]:
        raise DataError(f"{files.root} contains {' and '.join(twice[0])}, which mean the same split. Use one folder.")
    with_images = {path.partition("/")[0] for path in files.images if "/" in path}
    if splits and (others := sorted(with_images - splits.keys())):
        raise DataError(
            f"{files.root} contains images in {', '.join(others[:10])} next to the splits {', '.join(splits)}. "
            "Move the images of each class into a folder in one of the splits, and others out of the raw folder."
        )
