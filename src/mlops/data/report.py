"""The report on prepared data: `report.json` and `report.md`."""

import logging
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from src.mlops.data.checks import Findings
from src.mlops.data.exclude import EXCLUDED
from src.mlops.data.layouts import RawData
from src.mlops.errors import listed
from src.mlops.io.markdown import plain

logger = logging.getLogger(__name__)
SPLITS = ("train", "val", "reference", "test")
SHOWN = 20  # near-duplicates that are listed
RULE = (
    "A class with fewer than three groups of images that belong together cannot be in all splits. One group is always "
    "used for training, and a second one for the first split that is held out (test, then validation)."
)


def build_report(
    raw: RawData, table: pd.DataFrame, findings: Findings, near_duplicates: list[dict[str, Any]], *, added: bool = False
) -> dict[str, Any]:
    """Returns the content of `report.json`.

    Args:
        raw: The raw data.
        table: All images with their `split`: one of `SPLITS`, `bad`, `leak` or `excluded`.
        findings: The results of the checks.
        near_duplicates: From `find_near_duplicates`.
        added: Whether the images are added to others, so that classes need not be in all splits.
    """
    used = table[table["split"].isin(SPLITS)]
    counts = pd.crosstab(used["class_id"], used["split"])
    counts = counts.reindex(index=range(len(raw.classes)), columns=list(SPLITS), fill_value=0)
    sizes = used[["found_width", "found_height"]].max(axis=1)
    return {
        "layout": raw.layout,
        "classes_from": raw.classes_from,
        "images": {split: int((used["split"] == split).sum()) for split in SPLITS},
        "unlabelled_images": len(raw.unlabelled),
        "skipped_files": raw.skipped,
        "tracks": {split: int(used.loc[used["split"] == split, "track_id"].nunique()) for split in SPLITS[:3]},
        "classes": [
            {"class_id": entry.class_id, "number": entry.number, "name": entry.name}
            | dict(zip(counts.columns, map(int, row), strict=True))
            for entry, row in zip(raw.classes, counts.to_numpy(), strict=True)
        ],
        "small_classes": [] if added else _small_classes(used, raw),
        "size_px": {
            name: int(np.quantile(sizes, level)) if len(sizes) else 0
            for name, level in (("min", 0), ("median", 0.5), ("max", 1))
        },
        "excluded_images": int((table["split"] == EXCLUDED).sum()),
        "bad_images": _records(findings.bad),
        "leaks": [
            {f"{leak['split']}_path": leak["path"], f"{leak['kept_split']}_path": leak["kept_path"]}
            for leak in _records(findings.leaks)
        ],
        "leaked_tracks_dropped": table.loc[table["split"] == "leak", "track_id"].value_counts().to_dict(),
        "duplicates": [list(group["path"]) for _, group in findings.duplicates.groupby("content_hash")],
        "near_duplicates": {"images": len(near_duplicates), "first": near_duplicates[:SHOWN]},
    }


def summarise(report: dict[str, Any]) -> str:
    """Renders the report as Markdown. Reports of earlier versions lack some of its content."""
    images, sizes = report["images"], report["size_px"]
    dropped = report["leaked_tracks_dropped"]
    near = report.get("near_duplicates", {"images": 0, "first": []})
    small = report.get("small_classes", [])
    lines = [
        "# Data report",
        "",
        f"Layout: {report['layout']}. Images: {images['train']:,} training, {images['val']:,} validation, "
        f"{images.get('reference', 0):,} reference, {images['test']:,} test. "
        f"Longer side: {sizes['min']} to {sizes['max']} px, median {sizes['median']} px.",
        "",
        *([f"- Class list: {report['classes_from']}"] if "classes_from" in report else []),
        f"- Bad images dropped: {len(report['bad_images'])}",
        f"- Images that are identical to a held-out image or to one of the original data: {len(report['leaks'])}"
        + (f" ({sum(dropped.values())} images of their tracks were dropped)" if dropped else ""),
        f"- Groups of identical images: {len(report['duplicates'])}",
        f"- Held-out images that are nearly the same as another image (not dropped): {near['images']}",
        f"- Images left out by data.exclude: {report.get('excluded_images', 0)}",
        *([_skipped(report)] if "skipped_files" in report else []),
        *([f"- Classes that are not in all splits: {len(small)}. {RULE}"] if small else []),
        *(
            f"    - {plain(entry['name'])} ({entry['groups']}): not in {' and '.join(entry['missing'])}"
            for entry in small
        ),
        "",
        *(f"- bad: `{bad['path']}`: {bad['problem']}" for bad in report["bad_images"]),
        *(f"- leak: `{path}` is identical to `{kept}`" for path, kept in map(dict.values, report["leaks"])),
        *(f"- near-duplicate: `{path}` and `{other}`" for path, other in map(dict.values, near["first"])),
        "",
        "| class | number | name | train | val | reference | test |",
        "|---:|---|---|---:|---:|---:|---:|",
        *(
            f"| {c['class_id']} | {plain(c['number'] or '')} | {plain(c['name'])} | "
            f"{c['train']} | {c['val']} | {c.get('reference', 0)} | {c['test']} |"
            for c in report["classes"]
        ),
    ]
    return "\n".join(lines) + "\n"


def log_report(report: dict[str, Any]) -> None:
    """Logs what people should know about good data, one line per topic."""
    skipped = report["skipped_files"]
    if report["unlabelled_images"] or any(skipped.values()):
        logger.info(
            "Not used: %d images without labels (to predict only), %d images in folders without any listed image, "
            "%d hidden or system files, %d other files",
            report["unlabelled_images"], skipped["unused_images"], skipped["hidden"], skipped["other"],
        )  # fmt: skip
    if report["small_classes"]:
        logger.warning("%s. See report.md", _describe_small_classes(report["small_classes"]))
    if count := report["near_duplicates"]["images"]:
        logger.warning(
            "%d held-out images are nearly the same as another image. They are kept, and report.md lists the first",
            count,
        )


def _describe_small_classes(small: list[dict[str, Any]]) -> str:
    """Returns one sentence on the classes that are not in all splits."""
    names = listed([repr(entry["name"]) for entry in small], 5)
    return f"Classes with too few groups of images to be in all splits: {len(small):,} ({names})"


def _small_classes(used: pd.DataFrame, raw: RawData) -> list[dict[str, Any]]:
    """Lists the classes with training images of which nothing was held out for a split. Given splits are not listed."""
    held_out = [split for split, given in (("val", raw.val), ("test", raw.test)) if given.empty]
    present = {split: set(used.loc[used["split"] == split, "class_id"]) for split in SPLITS}
    groups = used.groupby("class_id")["track_id"].nunique()
    found = []
    for class_id in sorted(present["train"]):
        if missing := [split for split in held_out if class_id not in present[split]]:
            entry = {"class_id": int(class_id), "name": raw.classes[class_id].name, "groups": int(groups[class_id])}
            found.append(entry | {"missing": missing})
    return found


def _skipped(report: dict[str, Any]) -> str:
    skipped = report["skipped_files"]
    return (
        f"- Not used: {report['unlabelled_images']} images without labels, to predict only; {skipped['unused_images']} "
        f"images in folders without any listed image; {skipped['hidden']} hidden or system files; {skipped['other']} "
        "other files"
    )


def _records(frame: pd.DataFrame) -> list[dict[Hashable, Any]]:
    return frame.to_dict("records")
