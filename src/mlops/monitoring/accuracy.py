"""Estimates the accuracy on images without labels.

A logistic regression predicts from the outputs of the network and the descriptors whether the predicted class is right.
It is fitted on labelled images of the reference split, clean and corrupted, so it knows what doubt looks like when the
camera changes. The mean of its predictions over a window is the estimate. ATC (Garg et al., "Leveraging unlabeled data
to predict out-of-distribution performance", 2022) does the same with a threshold on the confidence, and is less
accurate here; see `benchmarks/drift.py`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from src.mlops.monitoring.observations import FEATURES, Floats

Array = NDArray[np.float64]
_LIMIT = 4.0  # standard deviations at which features are clipped: beyond them, a polynomial extrapolates wildly
_PENALTY = 1e-4
_FITTED = 60_000  # images at most


class Estimate(NamedTuple):
    """The estimated accuracy of a window with its interval, all from 0 to 1."""

    accuracy: float
    low: float
    high: float


def fit(values: Floats, correct: NDArray[np.bool_], seed: int = 0) -> Array:
    """Fits the coefficients.

    Args:
        values: Features of labelled images, clean and corrupted, float32 [R, F].
        correct: Whether the predicted class is right, bool [R].
        seed: Seed of the sample, if there are more than 60,000 images.

    Returns:
        float64 [K]: mean and standard deviation of each feature, and the coefficients.
    """
    rows = np.random.default_rng(seed).permutation(len(values))[:_FITTED]
    mean, deviation = values[rows].mean(axis=0, dtype=np.float64), values[rows].std(axis=0, dtype=np.float64) + 1e-6
    inputs, targets = _basis(values[rows], mean, deviation), correct[rows].astype(np.float64)

    def loss(weights: Array) -> tuple[float, Array]:
        logits = inputs @ weights
        penalised = np.concatenate([[0], weights[1:]])
        value = np.mean(np.logaddexp(0, logits) - targets * logits) + _PENALTY * (penalised**2).sum()
        return float(value), inputs.T @ (expit(logits) - targets) / len(targets) + 2 * _PENALTY * penalised

    weights = minimize(loss, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    return np.concatenate([mean, deviation, weights])


def chances(coefficients: Array, values: Floats) -> Array:
    """Returns the probability of each image that its predicted class is right, float64 [N].

    Args:
        coefficients: The result of `fit`.
        values: float32 [N, F].
    """
    mean, deviation, weights = np.split(coefficients, [len(FEATURES), 2 * len(FEATURES)])
    parts = [values[start : start + 8192] for start in range(0, len(values), 8192)]
    return np.concatenate([expit(_basis(part, mean, deviation) @ weights) for part in parts] or [np.empty(0)])


def estimate(coefficients: Array, values: Floats, cluster: NDArray[np.int64], error: float) -> Estimate:
    """Estimates the accuracy of a window.

    Args:
        coefficients: The result of `fit`.
        values: Features of the window, float32 [N, F], N at least 1.
        cluster: Cluster of each image, int64 [N].
        error: Standard error of the method itself, measured on corruptions that `fit` did not see.

    Returns:
        The estimate with a 95 % interval that covers the sampling of clusters and the error of the method.
    """
    right = chances(coefficients, values)
    _, number = np.unique(cluster, return_inverse=True)
    sums, sizes = np.bincount(number, right), np.bincount(number)
    mean = float(sums.sum() / sizes.sum())
    spread = float(((sums - mean * sizes) ** 2).sum()) / sizes.sum() ** 2  # variance of a ratio over clusters
    # The labels vary around their probabilities as well; frames of a cluster are mostly right or wrong together.
    spread += mean * (1 - mean) / len(sizes)
    half = 1.96 * float(np.sqrt(spread + error**2))
    return Estimate(mean, max(mean - half, 0.0), min(mean + half, 1.0))


def _basis(values: Floats, mean: Array, deviation: Array) -> Array:
    scaled = np.clip((values - mean) / deviation, -_LIMIT, _LIMIT)
    outputs = scaled[:, -4:]  # of the network
    products = [outputs[:, i] * outputs[:, j] for i in range(4) for j in range(i)]
    kinks = np.maximum(outputs, 0)
    return np.column_stack([np.ones(len(scaled)), scaled, scaled**2, kinks, *products])
