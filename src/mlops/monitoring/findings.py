"""Says what has changed: the camera, the mix of signs, or whether unknown things pass by; since when and how much.

The tests are designed to be separable. The camera is judged within each predicted class, so another mix of signs does
not move its ranks, and without the images reported as unknown. The reverse does not hold: a bad camera makes images
look unknown and changes predicted classes. So while the camera is off, the other findings are given with a reservation.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from src.mlops.monitoring.baseline import Baseline
from src.mlops.monitoring.detector import HORIZONS, MODEL, SCORES, UNKNOWN_TESTS, Looks
from src.mlops.monitoring.observations import CAMERA, FEATURES, Observations

Array = NDArray[np.float64]
LEVELS = {"small": 0.0, "moderate": 0.2, "large": 0.35}  # from this mean rank on, which is at most 0.5
_MIX_LEVELS = {"small": 0.0, "moderate": 0.15, "large": 0.3}  # from this total variation distance on
_UNKNOWN_LEVELS = {"small": 0.0, "moderate": 0.05, "large": 0.2}  # from this additional share on
TITLES = {
    "camera": "The camera changed",
    "mix": "Other signs are driven by",
    "unknown": "Unknown things pass by",
    "model": "The model reacts differently",
}


class Change(NamedTuple):
    """A feature that changed.

    Attributes:
        feature: Its name.
        evidence: In units of what an alarm needs.
        rank: Mean rank in the baseline minus 1/2: -0.5 (lower than all of the baseline) to 0.5.
        before: Median in the baseline.
        after: Median since the change.
    """

    feature: str
    evidence: float
    rank: float
    before: float
    after: float


class ClassChange(NamedTuple):
    """A class whose share changed: shares of the baseline and of the stream, 0 to 1."""

    class_id: int
    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Finding:
    """One kind of drift.

    Attributes:
        kind: A key of `TITLES`.
        severity: `small`, `moderate` or `large`.
        since_row: Row of the stream at which it probably started.
        since: The time of this row, Unix time.
        until_row: Row after the last look with an alarm.
        found_row: Number of images before the first look with an alarm.
        ongoing: Whether the last look raises the alarm too.
        size: What the severity refers to: the largest absolute mean rank, the total variation distance of the mix, or
            the additional share of images that look unknown.
        evidence: Of the strongest test, in units of what an alarm needs.
        reservation: Why the finding may be a consequence of another one; empty if it is not.
        features: The features that changed, strongest first.
        classes: The classes concerned, largest change first.
    """

    kind: str
    severity: str
    since_row: int
    since: float
    until_row: int
    found_row: int
    ongoing: bool
    size: float
    evidence: float
    reservation: str = ""
    features: list[Change] = field(default_factory=list)
    classes: list[ClassChange] = field(default_factory=list)


def find(stream: Observations, looks: Looks, baseline: Baseline) -> list[Finding]:
    """Returns the kinds of drift for which a look raised an alarm, the cause before its consequences."""
    alarms = looks.alarms()
    found: list[Finding] = []
    for kind in TITLES:
        rows = np.flatnonzero(alarms[kind])
        if not len(rows):
            continue
        if kind == "model" and found:  # its features follow from any other change
            continue
        finding = _finding(kind, rows, stream, looks, baseline)
        if found and found[0].kind == "camera" and _overlaps(finding, found[0]):
            finding = replace(finding, reservation="It may follow from the change of the camera.")
        found.append(finding)
    return found


def estimate_mix(predicted: NDArray[np.int64], baseline: Baseline) -> Array:
    """Estimates the mix of the true classes (black-box shift estimation; Lipton et al., 2018).

    Args:
        predicted: Class ids, int64 [N], N at least 1.
        baseline: A baseline of the model, which knows how often images of each class are classified as another one.

    Returns:
        Shares of the true classes, float64 [C], at least 0, with the sum 1.
    """
    confusion = baseline.knowledge.confusion.T.astype(np.float64)
    shares = np.bincount(predicted, minlength=len(confusion)) / len(predicted)
    solved = np.maximum(lsq_linear(confusion, shares, bounds=(0, 1)).x, 0)
    return np.asarray(solved / max(float(solved.sum()), 1e-12))


def _finding(
    kind: str, alarm_looks: NDArray[np.int64], stream: Observations, looks: Looks, baseline: Baseline
) -> Finding:
    evidence: Array = getattr(looks, kind)
    strongest = evidence[alarm_looks].max(axis=(0, 1))  # of each test
    window, end = looks.window, int(looks.ends[alarm_looks[-1]])
    until = int(np.searchsorted(window.last, end))
    horizon = HORIZONS[-1]
    # The start is searched back from the last alarm to the longest horizon before the first.
    first = int(np.searchsorted(window.last, max(int(looks.ends[alarm_looks[0]]) - horizon, 0)))
    scores = _scores(kind, strongest, looks, baseline)[first:until]
    start = first + _change_point(scores)
    since_row = int(np.flatnonzero(stream.cluster == stream.cluster[window.last[start]])[0])
    rows = slice(start, until)
    features: list[Change] = []
    classes: list[ClassChange] = []
    if kind in ("camera", "model"):
        names = CAMERA if kind == "camera" else MODEL
        offset = FEATURES.index(names[0])
        mean = window.ranks[rows].mean(axis=0)
        after = np.median(stream.values[since_row:end], axis=0)
        before = np.median(baseline.values, axis=0)
        for place in np.argsort(-strongest):
            if strongest[place] > 1:
                at = offset + int(place)
                change = (names[place], float(strongest[place]), float(mean[at]), float(before[at]), float(after[at]))
                features.append(Change(*change))
        size, levels = max(abs(change.rank) for change in features), LEVELS
    elif kind == "mix":
        classes = _class_changes(window.predicted[rows], baseline)
        size, levels = sum(abs(change.after - change.before) for change in classes) / 2, _MIX_LEVELS
        classes = classes[:8]
    else:
        size = float((~window.known[rows]).mean() - baseline.unknown.mean())
        levels = _UNKNOWN_LEVELS
        among = window.predicted[rows][~window.known[rows]]
        classes = _class_changes(among, baseline)[:8] if len(among) else []
    return Finding(
        kind,
        severity=[name for name, limit in levels.items() if size >= limit or limit == 0][-1],
        since_row=since_row,
        since=float(stream.time[since_row]),
        until_row=end,
        found_row=int(looks.ends[alarm_looks[0]]),
        ongoing=bool(alarm_looks[-1] == len(looks.ends) - 1),
        size=size,
        evidence=float(np.max(strongest)),
        features=features,
        classes=classes,
    )


def _overlaps(finding: Finding, camera: Finding) -> bool:
    """Returns whether a finding can be a consequence of the camera: neither found before it, nor started after it."""
    return finding.found_row > camera.since_row and finding.since_row < camera.until_row


def _scores(kind: str, strongest: Array, looks: Looks, baseline: Baseline) -> Array:
    """Returns a number per cluster whose mean is 0 in the baseline and changes with the drift, float64 [K]."""
    window = looks.window
    if kind in ("camera", "model"):
        names = CAMERA if kind == "camera" else MODEL
        return np.asarray(window.ranks[:, FEATURES.index(names[int(np.argmax(strongest))])])
    if kind == "mix":
        last = int(np.argmax(looks.mix.max(axis=1)))
        end = int(np.searchsorted(window.last, looks.ends[last]))
        changed = window.predicted[max(end - HORIZONS[-1], 0) : end]
        classes = len(baseline.origin.classes)
        before = (np.bincount(baseline.predicted, minlength=classes) + 0.5) / (len(baseline) + classes / 2)
        after = (np.bincount(changed, minlength=classes) + 0.5) / (len(changed) + classes / 2)
        gain = np.log(after / before)
        return np.asarray(gain[window.predicted] - (before * gain).sum())
    score, _ = UNKNOWN_TESTS[int(np.argmax(strongest))]
    values = baseline.values[:, FEATURES.index(score)]
    column = window.scores[:, SCORES.index(score)]
    limit = np.quantile(values, 0.98)
    return np.asarray((column > limit) - float((values > limit).mean()))


def _change_point(scores: Array) -> int:
    """Returns where the last part of the scores starts that differs most from a mean of zero."""
    suffix = np.cumsum(scores[::-1])[::-1]
    length = np.arange(len(scores), 0, -1)
    return int(np.argmax(suffix**2 / (length + 10)))  # 10: the very end does not win by chance


def _class_changes(predicted: NDArray[np.int64], baseline: Baseline) -> list[ClassChange]:
    names = baseline.origin.classes
    before, after = estimate_mix(baseline.predicted, baseline), estimate_mix(predicted, baseline)
    order = np.argsort(-np.abs(after - before), kind="stable")
    return [ClassChange(int(c), names[c], float(before[c]), float(after[c])) for c in order]
