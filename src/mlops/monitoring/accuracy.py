"""Estimates the accuracy on images without labels.

A logistic regression predicts from the outputs of the network and the descriptors of an image whether its predicted
class is right. It is fitted on labelled images of the reference split, clean and with known corruptions, so it has seen
doubt in bad images. The mean of its predictions over a window is the first estimate. If the window as a whole resembles
one of the known corruptions, the estimate is corrected by what is known about the error there.

ATC (Garg et al., "Leveraging unlabeled data to predict out-of-distribution performance", 2022) counts confidences above
a threshold that fits clean images; `benchmarks/drift.py` compares the two.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from src.mlops.monitoring.observations import FEATURES, MODEL, Floats

Array = NDArray[np.float64]
_LIMIT = 4.0  # standard deviations at which features are clipped: beyond them, a polynomial extrapolates wildly
_PENALTY = 1e-4
_FITTED = 30_000  # images at most
_RESEMBLANCE = 0.5  # width of the kernel between the mean features of two windows, in standard deviations
_PRIOR = 0.1  # weight of no correction
_FLOOR = 0.02  # added to the estimated error rate, of which the error of the method is a multiple
_CHUNK = 4096


class Estimate(NamedTuple):
    """The estimated accuracy of a window with a 95 % interval, all from 0 to 1."""

    accuracy: float
    low: float
    high: float


class Fitted(NamedTuple):
    """The result of `fit`.

    Attributes:
        coefficients: Mean and standard deviation of each feature, and the weights of the regression, float64 [K].
        known: For each known corruption the mean of the scaled features, the accuracy minus its estimate there, and the
            standard error of this difference over physical signs, float64 [G, F + 2].
    """

    coefficients: Array
    known: Array


def fit(
    values: Floats, correct: NDArray[np.bool_], names: NDArray[np.str_], signs: NDArray[np.int64], seed: int = 0
) -> Fitted:
    """Fits the regression.

    Args:
        values: Features of labelled images, clean and corrupted, float32 [R, F].
        correct: Whether the predicted class is right, bool [R].
        names: Corruption of each image, with its severity, str [R].
        signs: Number of the physical sign of each image, int64 [R].
        seed: Seed of the sample if there are more than 30,000 images.
    """
    rows = np.random.default_rng(seed).permutation(len(values))[:_FITTED]
    mean, deviation = values[rows].mean(axis=0, dtype=np.float64), values[rows].std(axis=0, dtype=np.float64) + 1e-6
    inputs, targets = _basis(_scaled(values[rows], mean, deviation)), correct[rows].astype(np.float64)

    def loss(weights: Array) -> tuple[float, Array]:
        logits = inputs @ weights
        penalised = np.concatenate([[0], weights[1:]])
        value = np.mean(np.logaddexp(0, logits) - targets * logits) + _PENALTY * (penalised**2).sum()
        return float(value), inputs.T @ (expit(logits) - targets) / len(targets) + 2 * _PENALTY * penalised

    weights = minimize(loss, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 100}).x
    coefficients = np.concatenate([mean, deviation, weights])
    known = []
    for name in np.unique(names):
        own = names == name
        features, chance = _summary(coefficients, values[own])
        wrong_by = correct[own] - chance
        known.append([*features, wrong_by.mean(), _standard_error(wrong_by, signs[own])])
    return Fitted(coefficients, np.array(known))


def estimate(fitted: Fitted, values: Floats, cluster: NDArray[np.int64], error: float) -> Estimate:
    """Estimates the accuracy of a window.

    Args:
        fitted: The result of `fit`.
        values: Features of the window, float32 [N, F], N at least 1.
        cluster: Cluster of each image, int64 [N].
        error: Error of the method for a window that resembles no known corruption, see `relative_error`.

    Returns:
        The estimate with an interval that covers the choice of the clusters and the error of the method.
    """
    features, chances = _summary(fitted.coefficients, values)
    known, corrections, errors = np.split(fitted.known, [len(FEATURES), len(FEATURES) + 1], axis=1)
    weights = np.exp(-((known - features) ** 2).sum(axis=1) / (2 * _RESEMBLANCE**2))
    correction, correction_error = (weights @ np.hstack([corrections, errors]) / (weights.sum() + _PRIOR)).tolist()
    novelty = _PRIOR / (float(weights.sum()) + _PRIOR)  # 1 if the window resembles no known corruption
    mean = float(np.clip(chances.mean() + correction, 0, 1))
    spread = _standard_error(chances, cluster) ** 2
    spread += mean * (1 - mean) / len(np.unique(cluster))  # frames of one sign are mostly right or wrong together
    spread += correction_error**2
    half = float(np.hypot(1.96 * np.sqrt(spread), error * (1 - mean + _FLOOR) * novelty))
    return Estimate(mean, max(mean - half, 0.0), min(mean + half, 1.0))


def _standard_error(values: Array, cluster: NDArray[np.int64]) -> float:
    """Returns the standard error of a mean of values that are independent between clusters only."""
    _, number = np.unique(cluster, return_inverse=True)
    sums, sizes = np.bincount(number, values), np.bincount(number)
    return float(np.sqrt(((sums - values.mean() * sizes) ** 2).sum()) / len(values))


def relative_error(estimated: float, accuracy: float) -> float:
    """Returns how wrong an estimate is, relative to the estimated error rate: it is larger for bad images."""
    return abs(estimated - accuracy) / (1 - estimated + _FLOOR)


def _summary(coefficients: Array, values: Floats) -> tuple[Array, Array]:
    """Returns the mean of the scaled features, float64 [F], and the probability of each image to be right."""
    mean, deviation, weights = np.split(coefficients, [len(FEATURES), 2 * len(FEATURES)])
    total, chances = np.zeros(len(FEATURES)), np.empty(len(values))
    for start in range(0, len(values), _CHUNK):
        scaled = _scaled(values[start : start + _CHUNK], mean, deviation)
        total += scaled.sum(axis=0)
        chances[start : start + _CHUNK] = expit(_basis(scaled) @ weights)
    return total / len(values), chances


def _scaled(values: Floats, mean: Array, deviation: Array) -> Array:
    return np.clip((values - mean) / deviation, -_LIMIT, _LIMIT)


def _basis(scaled: Array) -> Array:
    """Returns all products of two features, and more freedom for the outputs of the network, float64 [N, B]."""
    first, second = np.triu_indices(scaled.shape[1])
    kinks = np.maximum(scaled[:, -len(MODEL) :], 0)
    return np.column_stack([np.ones(len(scaled)), scaled, scaled[:, first] * scaled[:, second], kinks])
