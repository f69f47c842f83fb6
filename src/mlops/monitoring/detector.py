"""Looks at a stream of records again and again, and raises alarms with one error rate for everything.

A *look* is taken after every 100 images. It compares the last 100, 300 and 1,000 images with the baseline: each feature
by a rank test within the predicted classes, the mix of the predicted classes, and the share of images that look
unknown. Every test has its own small error probability, and their sum over all features, horizons and 1,000 looks is
`ERROR_RATE`. So with probability 99 %, 1,000 consecutive looks (100,000 images) at unchanged traffic raise no alarm at
all, whatever the dependence between the tests. The horizons bound the memory: evidence of small differences between the
baseline and the traffic, which its limited size makes inevitable, does not accumulate for ever.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.mlops.monitoring.baseline import Baseline
from src.mlops.monitoring.evidence import exceedances, mix, rank_sum, ranks
from src.mlops.monitoring.observations import CAMERA, FEATURES, Observations

Array = NDArray[np.float64]
EVERY = 100  # images between two looks
HORIZONS = (100, 300, 1000)  # images
ERROR_RATE = 0.01  # of all tests together, over LOOKS looks
LOOKS = 1000
MODEL = tuple(name for name in FEATURES if name not in CAMERA)
SCORES = ("energy", "doubt", "distance")  # features that are high for unknown images
TAILS = (0.01, 0.03)  # shares of the baseline beyond which images are counted
SHARES = {"camera": 0.35, "model": 0.05, "mix": 0.4, "unknown": 0.2}  # of the error rate
UNKNOWN_TESTS = tuple((score, tail) for score in SCORES for tail in TAILS)
_TESTS = {"camera": len(CAMERA), "model": len(MODEL), "mix": 1, "unknown": len(UNKNOWN_TESTS)}
_FOLLOWED = 0.5  # share of unknown images from which the camera is judged by all images


def needed(kind: str) -> float:
    """Returns the evidence -log p that one test of a kind needs for an alarm."""
    return -float(np.log(ERROR_RATE * SHARES[kind] / (LOOKS * len(HORIZONS) * _TESTS[kind])))


class Window(NamedTuple):
    """The clusters of a stream, each with its mean rank within its predicted class of the baseline.

    Attributes:
        last: Row of the last record of each cluster, int64 [K], ascending.
        predicted: Most frequent predicted class, int64 [K].
        known: Whether one frame, chosen at random, is not reported as unknown, bool [K].
        ranks: Mean rank of each feature, -1/2 to 1/2, float64 [K, F]; zero if the baseline does not have the class. The
            mean is over the frames that are not unknown, and over all if `known` is False.
        scores: Values of SCORES of the chosen frame, float32 [K, 3].
    """

    last: NDArray[np.int64]
    predicted: NDArray[np.int64]
    known: NDArray[np.bool_]
    ranks: Array
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Looks:
    """The evidence of L looks. Values above 1 are alarms: evidence is given in units of what an alarm needs.

    Attributes:
        ends: Number of images before each look, int64 [L].
        camera: Evidence of each descriptor, float64 [L, H, D].
        model: Evidence of each output of the network, float64 [L, H, O].
        mix: Evidence of another mix of classes, float64 [L, H].
        unknown: Evidence of each of UNKNOWN_TESTS, float64 [L, H, U].
        window: The clusters.
    """

    ends: NDArray[np.int64]
    camera: Array
    model: Array
    mix: Array
    unknown: Array
    window: Window

    def alarms(self) -> dict[str, NDArray[np.bool_]]:
        """Returns for each kind of test whether each look raises an alarm, bool [L]."""
        return {kind: getattr(self, kind).reshape(len(self.ends), -1).max(axis=1, initial=0) > 1 for kind in SHARES}


def look(stream: Observations, baseline: Baseline) -> Looks:
    """Compares a stream with a baseline after every 100 images, or once if there are fewer.

    Args:
        stream: Records of the baseline's model in the order of time.
        baseline: The baseline.
    """
    total = len(stream)
    ends = np.arange(EVERY, total + 1, EVERY) if total >= EVERY else np.array([total])
    window = _clusters(stream, baseline)
    classes = len(baseline.origin.classes)
    starts = np.maximum(ends[:, None] - np.array(HORIZONS), 0)
    first, end = np.searchsorted(window.last, starts), np.searchsorted(window.last, ends)[:, None]

    def within(columns: Array) -> Array:
        """Returns the sum over the clusters of each look and horizon, [L, H, ...]."""
        sums = np.concatenate([np.zeros((1, *columns.shape[1:])), np.cumsum(columns, axis=0)])
        return np.asarray(sums[end] - sums[first])

    everyone = within(np.eye(classes)[window.predicted])
    counts = everyone.sum(axis=-1)
    known = within(np.eye(classes)[window.predicted] * window.known[:, None])
    sums = within(window.ranks * window.known[:, None])
    kept = np.array([len(values) for values in baseline.sorted_values], float)
    tests = rank_sum(sums, known[:, :, None, :], kept)
    unknown = np.stack([_beyond(window, baseline, within, counts, *test) for test in UNKNOWN_TESTS], axis=-1)
    # If most images are reported as unknown, it is not because of some unknown things: all images count. This is no
    # fair comparison with the known images of the baseline, so it only explains an alarm that is raised anyway.
    mostly_unknown = (known.sum(axis=-1) < _FOLLOWED * counts) & (unknown.max(axis=-1) > needed("unknown"))
    if mostly_unknown.any():
        rest = rank_sum(within(window.ranks), everyone[:, :, None, :], kept)
        tests = np.where(mostly_unknown[..., None], np.maximum(tests, rest), tests)
    return Looks(
        ends,
        tests[..., : len(CAMERA)] / needed("camera"),
        tests[..., len(CAMERA) :] / needed("model"),
        mix(known, kept, needed("mix")) / needed("mix"),
        unknown / needed("unknown"),
        window,
    )


def _clusters(stream: Observations, baseline: Baseline) -> Window:
    """Reduces records to clusters, in the order of their last records."""
    total = len(stream)
    _, cluster = np.unique(stream.cluster, return_inverse=True)
    number = int(cluster.max()) + 1 if total else 0
    last = np.zeros(number, np.int64)
    np.maximum.at(last, cluster, np.arange(total))
    shuffled = np.random.default_rng(0).permutation(total)
    chosen = np.zeros(number, np.int64)  # one frame of each cluster, as in the baseline
    chosen[cluster[shuffled]] = shuffled
    frame_ranks = _frame_ranks(stream, baseline)
    seen = ~stream.unknown
    known = seen[chosen]  # a majority would differ from the single frame that the baseline has
    used = seen | ~known[cluster]
    sums = np.stack([np.bincount(cluster[used], column[used], number) for column in frame_ranks.T], axis=1)
    means = sums / np.maximum(np.bincount(cluster[used], minlength=number), 1)[:, None]
    order = np.argsort(last, kind="stable")
    scores = np.stack([stream.column(name)[chosen] for name in SCORES], axis=1)
    return Window(last[order], stream.predicted[chosen][order], known[order], means[order], scores[order])


def _frame_ranks(stream: Observations, baseline: Baseline) -> Array:
    result = np.zeros(stream.values.shape)
    for label in np.unique(stream.predicted):
        rows, compared = np.flatnonzero(stream.predicted == label), baseline.sorted_values[label]
        if len(compared):
            for place in range(len(FEATURES)):
                result[rows, place] = ranks(stream.values[rows, place], compared[:, place])
    return result


def _beyond(
    window: Window, baseline: Baseline, within: Callable[[Array], Array], counts: Array, score: str, tail: float
) -> Array:
    rank = int(np.ceil(tail * len(baseline)))
    limit = baseline.sorted_scores[-rank, FEATURES.index(score)]
    found = within((window.scores[:, SCORES.index(score)] > limit).astype(float))
    return exceedances(found, counts, rank, len(baseline))
