"""The accuracy of labelled traffic, with an interval that accounts for how the labelled images were chosen.

Uncertain images are stored and labelled more often than others, so the share of right answers among the labels is too
low. Each image has a known probability to be stored (`image_probability` in its record) and a known probability to be
among the first of the review queue (`review_order.py`). The estimate weights each label with the inverse of both,
within uncertain and certain images (the Hájek estimator: Särndal, Swensson and Wretman, "Model Assisted Survey
Sampling", 1992, 5.7), and then with the shares of the two in all records, which are known (post-stratification, 7.6).

The interval is that of Clopper and Pearson for the effective number of images (Korn and Graubard, "Confidence intervals
for proportions with small expected number of positive counts estimated from survey data", 1998): unequal weights reduce
it (Kish, 1965), and frames of one physical sign count once, because they are mostly right or wrong together.
"""

import logging
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import beta

from src.mlops.errors import DataError
from src.mlops.io.storage import open_storage
from src.mlops.monitoring.baseline import CLUSTER_SECONDS
from src.mlops.monitoring.labels import Label, Labels, standing_label
from src.mlops.monitoring.recent import Recent
from src.mlops.monitoring.review_order import place, reviewable, weight
from src.mlops.monitoring.signs import physical_signs
from src.mlops.monitoring.window import ALL, read_window

logger = logging.getLogger(__name__)
Floats = NDArray[np.float64]
_KINDS = ("certain", "unknown or uncertain")
_LEVEL = 0.95


class LabelledAccuracy(NamedTuple):
    """The result of `labelled_accuracy`.

    Attributes:
        model_version: The model whose answers are judged.
        accuracy: Estimated share of right answers, 0 to 1, among all recorded images up to `until`.
        low: Lower end of the 95 % interval.
        high: Upper end.
        images: Number of these images.
        labels: Number of labels that the estimate uses.
        signs: Number of physical signs that they show.
        unclear: Number of images that reviewers could not judge, which count as missing.
        unused: Number of labels out of turn, such as most of the feedback: how they were chosen is not known.
        raw: Share of right answers among all labels, without weights.
        until: Time of the last image that the estimate covers; later ones are not labelled in order yet.
    """

    model_version: str
    accuracy: float
    low: float
    high: float
    images: int
    labels: int
    signs: int
    unclear: int
    unused: int
    raw: float
    until: datetime


class _Sample(NamedTuple):
    """One row per record, in the order of time.

    Attributes:
        time: Time in UTC, datetime64 [N].
        kind: 1 for an unknown or uncertain image, 0 for a certain one, int64 [N].
        stored: Probability that the image could be reviewed, float64 [N]; NaN if it cannot.
        weight: See `review_order.weight`, float64 [N].
        place: See `review_order.place`, float64 [N].
        right: 1 for a right answer, 0 for a wrong one, NaN if the label is unclear or missing, float64 [N].
        labelled: bool [N].
        cluster: The physical sign, int64 [N].
    """

    time: "pd.Series[pd.Timestamp]"
    kind: NDArray[np.int64]
    stored: Floats
    weight: Floats
    place: Floats
    right: Floats
    labelled: NDArray[np.bool_]
    cluster: NDArray[np.int64]


def labelled_accuracy(
    log: str, window: str = ALL, cluster_seconds: float = CLUSTER_SECONDS, model_version: str = ""
) -> LabelledAccuracy:
    """Estimates the accuracy of a model on the traffic of a window.

    An answer is right if the predicted class is the true one, or if the image shows none of the classes and the answer
    was that it is unknown.

    Args:
        log: Folder or `gs://` URL of the prediction log.
        window: See `read_window`.
        cluster_seconds: Longest time between two frames of one physical sign; 0: all images are independent.
        model_version: The model to judge; empty: the one that wrote the newest record.

    Raises:
        DataError: There are no records, or too few labels.
        StorageError: The log cannot be read.
    """
    frame = read_window(log, window)
    version = model_version or (frame["model_version"].iloc[-1] if len(frame) else "")
    frame = frame[frame["model_version"] == version].reset_index(drop=True)
    if frame.empty:
        model = f" of the model {version}" if version else ""
        raise DataError(f"{log} contains no records{model} in this window. Choose another one, or switch the log on.")
    sample = _sample(frame, Labels(open_storage(log)).all(), cluster_seconds)
    if not np.isfinite(sample.right).any():
        raise DataError(
            f"None of the {len(frame):,} images that the model {version} has classified in this window is "
            "labelled. Label some at /review, or choose another window."
        )
    end, limits = _covered(sample)
    inside = np.arange(len(frame)) <= end
    used = inside & sample.labelled & (sample.place < limits) & (sample.stored > 0)
    judged = used & np.isfinite(sample.right)
    share = np.bincount(sample.kind[inside], minlength=2) / inside.sum()
    for kind in np.flatnonzero(share):
        if not (judged & (sample.kind == kind)).any():
            raise DataError(
                f"None of the {_KINDS[kind]} images, {share[kind]:.1%} of all, is labelled in the order of the review "
                "queue. Label more images at /review."
            )
    accuracy, low, high = _estimate(sample, judged, limits, inside)
    return LabelledAccuracy(
        model_version=version,
        accuracy=accuracy,
        low=low,
        high=high,
        images=int(inside.sum()),
        labels=int(judged.sum()),
        signs=len(np.unique(sample.cluster[judged])),
        unclear=int((used & ~judged).sum()),
        unused=int((sample.labelled & ~used).sum()),
        raw=float(np.nanmean(sample.right)),
        until=sample.time.iloc[end].to_pydatetime(),
    )


def _sample(frame: pd.DataFrame, labels: dict[str, list[Label]], seconds: float) -> _Sample:
    plain = frame.drop(columns="embedding").astype(object)
    rows = plain.where(plain.notna(), None).to_dict("records")
    records = [Recent.of({str(name): value for name, value in row.items()}) for row in rows]
    standing = [standing_label(labels.get(record.record_id, [])) for record in records]
    candidates = {record.record_id for record in reviewable(records)}
    has_images = any(record.image for record in records)
    stored = [
        (record.image_probability if has_images else 1.0) if record.record_id in candidates else None
        for record in records
    ]
    old = sum(1 for record, chance in zip(records, stored, strict=True) if chance is None and record.image)
    if old:
        logger.warning("Left out %d images of an earlier release, which did not record image_probability", old)
    chances = np.array([np.nan if chance is None else chance for chance in stored], np.float64)
    predicted = frame["predicted_class"].to_numpy(np.int64)
    return _Sample(
        time=frame["time"],
        kind=np.array([record.is_uncertain for record in records], np.int64),
        stored=chances,
        weight=np.array([weight(record) for record in records]),
        place=np.array([place(record) for record in records]),
        right=np.array([_right(*pair) for pair in zip(records, standing, strict=True)]),
        labelled=np.array([label is not None for label in standing], bool),
        cluster=physical_signs(frame, predicted, seconds),
    )


def _right(record: Recent, label: Label | None) -> float:
    if label is None or label.verdict == "unclear":
        return np.nan
    if label.verdict == "none":
        return float(record.is_unknown)
    return float(label.class_id == record.predicted_class)


def _covered(sample: _Sample) -> tuple[int, Floats]:
    """Finds up to which image, and up to which places in the queue, all images are labelled.

    Images that arrived after the last review would end the labelled part of the queue early, so the end in time is the
    one with the most labels.

    Returns:
        The last row, and for each image the lowest place of an image of its kind that has no label up to there,
        float64 [N].
    """
    open_places = np.where(~sample.labelled & np.isfinite(sample.stored), sample.place, np.inf)
    kinds = [0, 1]
    lowest = np.stack([np.minimum.accumulate(np.where(sample.kind == kind, open_places, np.inf)) for kind in kinds])
    # One row before each lower place, and the last row.
    ends = [*np.flatnonzero((lowest[:, 1:] < lowest[:, :-1]).any(axis=0)), len(sample.kind) - 1]
    usable = sample.labelled & (sample.stored > 0)

    def count(end: int) -> int:
        rows = slice(end + 1)
        return int((usable[rows] & (sample.place[rows] < lowest[sample.kind[rows], end])).sum())

    best = max(ends, key=lambda end: (count(end), end))
    return int(best), lowest[sample.kind, best]


def _estimate(
    sample: _Sample, judged: NDArray[np.bool_], limits: Floats, inside: NDArray[np.bool_]
) -> tuple[float, float, float]:
    """Returns the accuracy and its interval."""
    share = np.bincount(sample.kind[inside], minlength=2) / inside.sum()
    accuracy = smoothed = squares = variance = 0.0
    for kind in np.flatnonzero(share):
        rows = judged & (sample.kind == kind)
        weights = 1 / (sample.stored[rows] * np.minimum(1.0, sample.weight[rows] * limits[rows]))
        weights /= weights.sum()
        mean = float(weights @ sample.right[rows])
        _, number = np.unique(sample.cluster[rows], return_inverse=True)
        effective = 1 / float((np.bincount(number, weights) ** 2).sum())
        # One right and one wrong answer more: a few right answers do not prove that all are right.
        chance = (mean * effective + 1) / (effective + 2)
        accuracy += share[kind] * mean
        smoothed += share[kind] * chance
        squares += share[kind] * chance**2
        variance += share[kind] ** 2 * chance * (1 - chance) / effective
    signs = len(np.unique(sample.cluster[inside]))
    variance += (squares - smoothed**2) / signs  # other traffic has another share of uncertain images
    accuracy = min(accuracy, 1.0)  # a sum of rounded shares
    images = smoothed * (1 - smoothed) / variance
    right, tail = accuracy * images, (1 - _LEVEL) / 2
    low = float(beta.ppf(tail, right, images - right + 1)) if right > 0 else 0.0
    high = float(beta.ppf(1 - tail, right + 1, images - right)) if images - right > 1e-9 else 1.0
    return float(accuracy), low, high
