"""Checks the data and reports the problems.

The checks compare the facts about the files (`packing.py`) with the tables that describe them (`layouts.py`).
"""

from collections.abc import Hashable
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from src.mlops.data.classes import ClassList
from src.mlops.errors import DataError

UNLISTED = "No CSV file lists this image"  # a problem, see `Findings.bad`


class Findings(NamedTuple):
    """The results of the checks.

    Attributes:
        bad: One row per unusable image: `path`, `problem`. By default, bad images stop the preparation.
        leaks: One row per pair of a training image and a test image with the same pixels: `train_path`, `test_path`.
        leaked_tracks: Tracks that contain a leaked image. No frame of these tracks may be used for training.
        duplicates: One row per image whose pixels occur more than once: `content_hash`, `path`.
    """

    bad: pd.DataFrame
    leaks: pd.DataFrame
    leaked_tracks: set[str]
    duplicates: pd.DataFrame


def check(train: pd.DataFrame, test: pd.DataFrame, unlisted: list[str]) -> Findings:
    """Compares the tables with the files.

    Args:
        train: Table of `layouts.py` with the columns of `packing.py`: `problem` (empty if the file could be read),
            `found_width`, `found_height` and `content_hash`.
        test: The same for the test images.
        unlisted: Images that no table lists.

    Returns:
        The findings. The tables are not changed.
    """
    everything = pd.concat([train, test], ignore_index=True)
    problems = pd.concat(
        [
            pd.DataFrame({"path": unlisted, "problem": UNLISTED}),
            everything.loc[everything["problem"] != "", ["path", "problem"]],
            _wrong_size(everything),
            _wrong_folder(everything),
            _two_classes(everything),
        ],
        ignore_index=True,
    )
    bad = problems.drop_duplicates("path").sort_values("path", ignore_index=True)

    # Unreadable files have no hash. Without this filter, each of them would be paired with every other.
    columns = ["path", "track_id", "content_hash"]
    readable = [table.loc[table["content_hash"] != "", columns] for table in (train, test)]
    leaks = readable[0].merge(readable[1], on="content_hash", suffixes=("_train", "_test"))
    known = everything[everything["content_hash"] != ""]
    repeated = known[known["content_hash"].duplicated(keep=False)]
    return Findings(
        bad=bad,
        leaks=leaks[["path_train", "path_test"]].set_axis(["train_path", "test_path"], axis=1),
        leaked_tracks=set(leaks["track_id_train"]),
        duplicates=repeated[["content_hash", "path"]].sort_values(["content_hash", "path"], ignore_index=True),
    )


def require_clean(findings: Findings) -> None:
    """Raises an error if there are bad images.

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
        f"Found {count}: {'; '.join(shown)}{rest}. Nothing was written. Repair or remove them, or set "
        "data.on_bad_image=skip to drop them and list them all in report.json."
    )


def merge_tracks(table: pd.DataFrame) -> pd.Series:
    """Puts tracks that share an image into one group, because they show the same physical sign.

    Returns:
        The group number of each row.
    """
    tracks, names = pd.factorize(table["track_id"])
    hashes, unique = pd.factorize(table["content_hash"])
    links = coo_array(([1] * len(table), (tracks, hashes + len(names))), shape=(len(names) + len(unique),) * 2)
    _, component = connected_components(links, directed=False)
    return pd.Series(component[tracks], index=table.index, name="group")


def build_report(layout: str, classes: ClassList, table: pd.DataFrame, findings: Findings) -> dict[str, Any]:
    """Returns the content of `report.json`.

    Args:
        layout: Name of the layout that was read.
        classes: The class list.
        table: All images with their `split`: train, val, test, `bad`, `leak` or `excluded`.
        findings: The results of the checks.
    """
    used = table[table["split"].isin(["train", "val", "test"])]
    counts = pd.crosstab(used["class_id"], used["split"])
    counts = counts.reindex(index=range(len(classes)), columns=["train", "val", "test"], fill_value=0)
    sizes = used[["found_width", "found_height"]].max(axis=1)
    return {
        "layout": layout,
        "images": {split: int((used["split"] == split).sum()) for split in ("train", "val", "test")},
        "tracks": {split: int(used.loc[used["split"] == split, "track_id"].nunique()) for split in ("train", "val")},
        "classes": [
            {"class_id": entry.class_id, "number": entry.number, "name": entry.name}
            | dict(zip(counts.columns, map(int, row), strict=True))
            for entry, row in zip(classes, counts.to_numpy(), strict=True)
        ],
        "size_px": {
            name: int(np.quantile(sizes, level)) if len(sizes) else 0
            for name, level in (("min", 0), ("median", 0.5), ("max", 1))
        },
        "excluded": int((table["split"] == "excluded").sum()),
        "bad_images": _records(findings.bad),
        "leaks": _records(findings.leaks),
        "leaked_tracks_dropped": table.loc[table["split"] == "leak", "track_id"].value_counts().to_dict(),
        "duplicates": [list(group["path"]) for _, group in findings.duplicates.groupby("content_hash")],
    }


def summarise(report: dict[str, Any]) -> str:
    """Renders the report as Markdown."""
    images, sizes = report["images"], report["size_px"]
    dropped = report["leaked_tracks_dropped"]
    lines = [
        "# Data report",
        "",
        f"Layout: {report['layout']}. Images: {images['train']:,} training, {images['val']:,} validation, "
        f"{images['test']:,} test. Longer side: {sizes['min']} to {sizes['max']} px, median {sizes['median']} px.",
        "",
        f"- Bad images dropped: {len(report['bad_images'])}",
        f"- Training images that are identical to a test image: {len(report['leaks'])}"
        + (f" ({sum(dropped.values())} images of their tracks were dropped)" if dropped else ""),
        f"- Groups of identical images: {len(report['duplicates'])}",
        f"- Images left out by data.exclude: {report['excluded']}",
        "",
        *(f"- bad: `{bad['path']}`: {bad['problem']}" for bad in report["bad_images"]),
        *(f"- leak: `{leak['train_path']}` is identical to `{leak['test_path']}`" for leak in report["leaks"]),
        "",
        "| class | number | name | train | val | test |",
        "|---:|---|---|---:|---:|---:|",
        *(
            f"| {c['class_id']} | {c['number'] or ''} | {c['name']} | {c['train']} | {c['val']} | {c['test']} |"
            for c in report["classes"]
        ),
    ]
    return "\n".join(lines) + "\n"


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


def _two_classes(table: pd.DataFrame) -> pd.DataFrame:
    known = table[table["content_hash"] != ""]
    repeated = known[known["content_hash"].duplicated(keep=False)]
    conflicts = [
        (
            path,
            f"Mislabelled: the same image is labelled as classes {', '.join(map(str, sorted(set(group['class_id']))))}",
        )
        for _, group in repeated.groupby("content_hash")
        if group["class_id"].nunique() > 1
        for path in group["path"]
    ]
    return pd.DataFrame(conflicts, columns=["path", "problem"])


def _records(frame: pd.DataFrame) -> list[dict[Hashable, Any]]:
    return frame.to_dict("records")
