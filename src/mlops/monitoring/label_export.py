"""Exports labelled images as training data: a folder of images with a CSV file, which `data.raw_dir` can be.

Frames of one physical sign get the same group, so that the preparation never puts them into different splits.
"""

import csv
import logging
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from src.mlops.errors import DataError, MissingFileError, NothingLabelledError, StorageError
from src.mlops.io.files import sha256
from src.mlops.io.storage import Storage, open_storage
from src.mlops.monitoring.baseline import CLUSTER_SECONDS
from src.mlops.monitoring.images import is_image_name
from src.mlops.monitoring.labels import Label, Labels, standing_label
from src.mlops.monitoring.segments import IMAGES
from src.mlops.monitoring.signs import connected_signs
from src.mlops.monitoring.window import ALL, read_window

logger = logging.getLogger(__name__)
TABLE = "labels.csv"
_NO_RECORD = (
    "are outside the window, or so new that the service is still writing their file (MLOPS_LOG_SEGMENT_SECONDS)"
)
_COLUMNS = ("path", "label", "class_id", "group", "time", "request_id", "source")


class Exported(NamedTuple):
    """What `export` wrote.

    Attributes:
        images: Number of images.
        groups: Number of physical signs that they show.
        classes: Number of images by the name of their class.
        left_out: Number of labels without an image in the export, by reason.
    """

    images: int
    groups: int
    classes: dict[str, int]
    left_out: dict[str, int]


def export(
    log: str, out: Path, window: str = ALL, cluster_seconds: float = CLUSTER_SECONDS, only_reviewed: bool = False
) -> Exported:
    """Writes the labelled images of a window into a new folder.

    Args:
        log: Folder or `gs://` URL of the prediction log.
        out: The folder. It appears when it is complete.
        window: See `read_window`.
        cluster_seconds: Longest time between two frames of one physical sign; 0: all images are independent.
        only_reviewed: Whether to leave out feedback that no reviewer has confirmed.

    Raises:
        DataError: The folder contains files already.
        NothingLabelledError: There is nothing to export.
        StorageError: The log cannot be read, or the folder cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists already and is not an empty folder. Choose another one, or delete it.")
    storage = open_storage(log)
    standing = {key: label for key, history in Labels(storage).all().items() if (label := standing_label(history))}
    frame = read_window(log, window)
    left_out = Counter({_NO_RECORD: len(standing.keys() - set(frame["record_id"]))})
    group = _groups(frame, standing, cluster_seconds)
    rows = [
        (record_id, request_id, time, image, name)
        for record_id, request_id, time, image, name in zip(
            *(frame[column] for column in ("record_id", "request_id", "time", "image")), group, strict=True
        )
        if record_id in standing
    ]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
            folder = Path(temporary, "export")
            (folder / IMAGES).mkdir(parents=True)
            written: list[dict[str, object]] = []
            for record_id, request_id, time, image, name in rows:
                label = standing[record_id]
                reason = _reason(label, image, only_reviewed) or _copy(storage, image, folder)
                if reason:
                    left_out[reason] += 1
                    continue
                own = (f"{IMAGES}/{Path(image).name}", label.class_name, label.class_id, name)
                written.append(dict(zip(_COLUMNS, (*own, time.isoformat(), request_id, label.source), strict=True)))
            kept = _without_contradictions(folder, written)
            left_out["contradict the label of an identical image"] = len(written) - len(kept)
            written = kept
            if not written:
                reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
                raise NothingLabelledError(
                    f"{log} has no labelled images to export{f': {reasons}' if reasons else ''}."
                )
            with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, _COLUMNS)
                writer.writeheader()
                writer.writerows(written)
            os.replace(folder, out)  # noqa: PTH105 - Path.replace does the same, but not into an empty folder on Windows
    except OSError as error:
        raise StorageError(f"Cannot write {out}: {error}.") from error
    classes = Counter(str(row["label"]) for row in written)
    groups = len({row["group"] for row in written})
    return Exported(len(written), groups, dict(classes), {reason: count for reason, count in left_out.items() if count})


def _reason(label: Label, image: object, only_reviewed: bool) -> str:
    """Says why a label is left out; empty if it is not."""
    if label.verdict == "none":
        return "show none of the classes"
    if label.verdict == "unclear":
        return "cannot be judged"
    if only_reviewed and label.source != "review":
        return "are feedback that no reviewer has confirmed"
    return "" if is_image_name(image) else "have no stored image"


def _copy(storage: Storage, image: str, folder: Path) -> str:
    """Copies an image. Says why this is not possible; empty if it is."""
    try:
        storage.download(image, folder / IMAGES / Path(image).name)
    except MissingFileError:
        return "have no stored image any more"
    return ""


def _without_contradictions(folder: Path, rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Removes images that were labelled differently when they were sent again, which nobody could train on."""
    labels: dict[str, set[object]] = {}
    digests = [sha256(folder / str(row["path"])) for row in rows]  # equal pixels are stored as equal files
    for digest, row in zip(digests, rows, strict=True):
        labels.setdefault(digest, set()).add(row["label"])
    kept = []
    for digest, row in zip(digests, rows, strict=True):
        if len(labels[digest]) == 1:
            kept.append(row)
        else:
            (folder / str(row["path"])).unlink()
    return kept


def _groups(frame: pd.DataFrame, standing: dict[str, Label], seconds: float) -> list[str]:
    """Returns the name of the physical sign in each record: time and ID of its first record.

    A sign whose predicted class changes from frame to frame is found by its labels, and frames without a label connect
    those with one by their predicted class. So both are used: a leak between splits would be worse than large groups.
    """
    predicted = frame["predicted_class"].to_numpy(np.int64)
    labels = [standing.get(record_id) for record_id in frame["record_id"]]
    true = np.array(
        [
            label.class_id if label and label.class_id is not None else own
            for own, label in zip(predicted, labels, strict=True)
        ],
        np.int64,
    )
    sign = connected_signs(frame, [predicted, true], seconds)
    _, first, number = np.unique(sign, return_index=True, return_inverse=True)
    names = [f"{time:%Y%m%dT%H%M%S}-{key}" for time, key in zip(frame["time"], frame["record_id"], strict=True)]
    return [names[first[place]] for place in number]
