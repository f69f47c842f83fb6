"""Finds problems of the data.

The checks compare the facts about the files (`packing.py`) with the tables that describe them (`layouts.py`).
"""

from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from src.mlops.data.classes import ClassList
from src.mlops.data.gtsrb import SIGNS
from src.mlops.errors import DataError

UNLISTED = "No CSV file lists this image"  # a problem, see `Findings.bad`
NO_CLASS_FOLDER = "The image is in no class folder"


class Findings(NamedTuple):
    """The results of the checks.

    Attributes:
        bad: One row per unusable image: `path`, `problem`. By default, bad images stop the preparation.
        leaks: One row per pair of images with the same pixels in two given splits, or in added images and the data:
            `path`, `split` and `track_id` of the image to drop, because `kept_path` is in the split `kept_split`. No
            other image of its track may be used in its split.
        duplicates: One row per image whose pixels occur more than once: `content_hash`, `path`.
    """

    bad: pd.DataFrame
    leaks: pd.DataFrame
    duplicates: pd.DataFrame


def check(table: pd.DataFrame, classes: ClassList, unlisted: list[str], problem: str = UNLISTED) -> Findings:
    """Compares the table with the files.

    Args:
        table: Tables of `layouts.py` with their given `split`, and the columns of `packing.py`: `problem` (empty if the
            file could be read), `found_width`, `found_height` and `content_hash`.
        classes: The class list.
        unlisted: Images without a label.
        problem: Their problem.

    Returns:
        The findings. The table is not changed.
    """
    # Unreadable files have no hash. Without this filter, each of them would be paired with every other.
    known = table[table["content_hash"] != ""]
    repeated = known[known["content_hash"].duplicated(keep=False)]
    problems = pd.concat(
        [
            pd.DataFrame({"path": unlisted, "problem": problem}),
            table.loc[table["problem"] != "", ["path", "problem"]],
            _wrong_size(table),
            _wrong_folder(table) if classes == SIGNS else None,
            _two_classes(repeated, classes),
        ],
        ignore_index=True,
    )
    return Findings(
        bad=problems.drop_duplicates("path").sort_values("path", ignore_index=True),
        leaks=_leaks(repeated),
        duplicates=repeated[["content_hash", "path"]].sort_values(["content_hash", "path"], ignore_index=True),
    )


def find_copies(table: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """Finds added images that the data uses already. In any split, they would be known to a model, or tell it a test.

    Args:
        table: The added images with `path`, `split`, `track_id` and `content_hash`.
        base: The index of the data, with `path`, `split` and `content_hash`.

    Returns:
        The rows for `Findings.leaks`; `kept_split` is for example `original_test`.
    """
    used = base[base["split"].isin(["train", "val", "reference", "test"])].drop_duplicates("content_hash")
    kept = used[["content_hash", "path"]].rename(columns={"path": "kept_path"})
    kept["kept_split"] = "original_" + used["split"]
    pairs = table[["path", "split", "track_id", "content_hash"]].merge(kept, on="content_hash")
    return pairs.drop(columns="content_hash")


def require_clean(findings: Findings, raw_dir: Path) -> None:
    """Raises an error if there are bad images.

    Args:
        findings: The results of the checks.
        raw_dir: The raw folder, for messages.

    Raises:
        DataError: Lists the first bad images and says how to continue without them.
    """
    if findings.bad.empty:
        return
    shown = [f"{row.path}: {row.problem}" for row in findings.bad.head(10).itertuples()]
    more = len(findings.bad) - len(shown)
    rest = f"; and {more} more" if more else ""
    count = "1 bad image" if len(findings.bad) == 1 else f"{len(findings.bad)} bad images"
    raise DataError(
        f"{raw_dir} contains {count}: {'; '.join(shown)}{rest}. Nothing was written. Repair or remove them, or set "
        "data.on_bad_image=skip to drop them and list them all in report.json."
    )


def require_training_images(table: pd.DataFrame, split: pd.Series, classes: ClassList, findings: Findings) -> None:
    """Raises an error if a class has lost all its training images.

    Args:
        table: All images with their given `split`.
        split: The split of each image after bad images and leaks were dropped.
        classes: The class list.
        findings: The results of the checks.

    Raises:
        DataError: Names the classes.
    """
    lost = sorted(set(table.loc[table["split"] == "train", "class_id"]) - set(table.loc[split == "train", "class_id"]))
    if lost and (split == "train").any():
        names = ", ".join(repr(classes[class_id].name) for class_id in lost[:10])
        bad = findings.bad.head(1).itertuples()
        example = next((f" The first bad image is {row.path}: {row.problem}." for row in bad), "")
        raise DataError(
            f"All training images of {names} are bad, left out by data.exclude, or in tracks with copies of held-out "
            f"images. Nothing was written.{example} Add other images, or remove the class."
        )


def merge_tracks(table: pd.DataFrame) -> pd.Series:
    """Puts tracks that share an image into one group, because they show the same object.

    Returns:
        The group number of each row.
    """
    tracks, names = pd.factorize(table["track_id"])
    hashes, unique = pd.factorize(table["content_hash"])
    links = coo_array(([1] * len(table), (tracks, hashes + len(names))), shape=(len(names) + len(unique),) * 2)
    _, component = connected_components(links, directed=False)
    return pd.Series(component[tracks], index=table.index, name="group")


def _wrong_size(table: pd.DataFrame) -> pd.DataFrame:
    stated = (table["width"] > 0) & (table["problem"] == "")
    wrong = table[stated & ((table["width"] != table["found_width"]) | (table["height"] != table["found_height"]))]
    return pd.DataFrame(
        {
            "path": wrong["path"],
            "problem": [
                f"Mislabelled: the table says {row.width} x {row.height} px, but the image has "
                f"{row.found_width} x {row.found_height} px"
                for row in wrong.itertuples()
            ],
        }
    )


def _wrong_folder(table: pd.DataFrame) -> pd.DataFrame:
    folders = [PurePosixPath(path).parent.name for path in table["path"]]
    wrong = [
        (path, f"Mislabelled: the table says class {class_id}, but the file is in the folder of class {int(folder)}")
        for path, class_id, folder in zip(table["path"], table["class_id"], folders, strict=True)
        if folder.isdecimal() and int(folder) != class_id
    ]
    return pd.DataFrame(wrong, columns=["path", "problem"])


def _two_classes(repeated: pd.DataFrame, classes: ClassList) -> pd.DataFrame:
    conflicts = [
        (path, f"Mislabelled: the same image is labelled as {' and '.join(_named(group['class_id'], classes))}")
        for _, group in repeated.groupby("content_hash")
        if group["class_id"].nunique() > 1
        for path in group["path"]
    ]
    return pd.DataFrame(conflicts, columns=["path", "problem"])


def _named(class_ids: pd.Series, classes: ClassList) -> list[str]:
    return [f"class {class_id} ({classes[class_id].name})" for class_id in sorted(set(class_ids))]


def _leaks(repeated: pd.DataFrame) -> pd.DataFrame:
    """Pairs each image with the same image in a split that is held out from its own."""
    columns = ["path", "split", "track_id", "content_hash"]
    kept = repeated[["content_hash", "path", "split"]].rename(columns={"path": "kept_path", "split": "kept_split"})
    pairs = repeated[columns].merge(kept, on="content_hash")
    order = {"train": 0, "val": 1, "test": 2}
    leaks = pairs[pairs["split"].map(order) < pairs["kept_split"].map(order)]
    return leaks.drop(columns="content_hash").reset_index(drop=True)
