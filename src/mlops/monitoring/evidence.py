"""Two-sample tests whose error probability is guaranteed at any sample size.

Each test compares n clusters of a window with m clusters of the baseline. The null hypothesis is that all n + m are
exchangeable: any of them could be the ones in the window. Each function returns the evidence -log p, where p bounds the
probability that the null hypothesis gives an evidence this large. No approximation is involved, so p may be as small as
a correction for thousands of tests needs it.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import gammaln, logsumexp

Array = NDArray[np.float64]
_CONCENTRATIONS = np.array([30.0, 100.0, 300.0])  # of the mixes that `mix` considers; few: very different from p


def ranks(values: NDArray[np.floating], baseline_sorted: NDArray[np.floating]) -> Array:
    """Returns the rank of each value among baseline values, from -1/2 (below all) to 1/2; ties count half.

    Args:
        values: float [n].
        baseline_sorted: float [m], ascending, m at least 1.
    """
    below = np.searchsorted(baseline_sorted, values, "left") + np.searchsorted(baseline_sorted, values, "right")
    return np.asarray(below / (2 * len(baseline_sorted)) - 0.5)


def rank_sum(sums: Array, counts: Array, baseline_counts: Array) -> Array:
    """Returns the evidence of a stratified two-sided rank test (van Elteren, 1960; Mann and Whitney, 1947).

    Within a stratum, the Mann-Whitney statistic U of n and m exchangeable values has the moment-generating function
    prod_i [sinh((m + i) t / 2) / (m + i)] / [sinh(i t / 2) / i], i = 1..n. As log(sinh x / x) - x² / 6 decreases with
    x, its logarithm is at most t² / 2 times the exact variance n m (n + m + 1) / 12. So U has sub-Gaussian tails with
    its own variance, and so has a sum over strata. Two facts extend this bound: a convex function of a mean is at most
    the mean of the function (Jensen), so it also holds with ties that count half, and for averages over the frames of a
    cluster, which are averages over the choice of one frame of each cluster.

    Args:
        sums: Sum of the ranks (see `ranks`) of the window's clusters over all strata, float [...].
        counts: Number of the window's clusters in each stratum, float [..., S].
        baseline_counts: Number of the baseline's clusters in each stratum, float [S]. Strata without any are ignored.

    Returns:
        float [...].
    """
    usable = baseline_counts > 0
    n, m = counts[..., usable], baseline_counts[usable]
    variance = (n * (n + m + 1) / (12 * m)).sum(axis=-1)
    evidence = np.divide(sums**2, 2 * variance, out=np.zeros(np.broadcast(sums, variance).shape), where=variance > 0)
    return np.asarray(np.maximum(evidence - np.log(2), 0))


def exceedances(found: Array, counts: Array, rank: int, baseline_count: int) -> Array:
    """Returns the evidence that the window has more values beyond the baseline's `rank`-th largest value than chance.

    The test is exact (precedence test; Epstein, 1954): k values or more are beyond it exactly if at least k of the
    largest k + rank - 1 values of both samples together belong to the window, which is a hypergeometric probability.

    Args:
        found: Number of the window's values that are larger, float [...].
        counts: Number of the window's values, float [...].
        rank: 1 for the largest value of the baseline.
        baseline_count: Number of the baseline's values.
    """
    log_p = stats.hypergeom.logsf(found - 1, counts + baseline_count, counts, found + rank - 1)
    return np.asarray(np.where(found > 0, -log_p, 0.0))


def mix(counts: Array, baseline_counts: Array) -> Array:
    """Returns the evidence that the window has another mix of classes.

    Given the classes of both samples together, with shares p, the window is a sample without replacement. For any other
    shares q that depend on nothing else, the likelihood ratio prod (q / p)^counts is an e-value: its mean is at most 1
    for a sample with replacement, and so without (Hoeffding, 1963, theorem 4). So is its mean over q from Dirichlet
    distributions around p, which has a closed form. By Markov's inequality, log e is a valid evidence.

    Args:
        counts: Number of the window's clusters of each class, float [..., C].
        baseline_counts: Number of the baseline's clusters of each class, float [C].
    """
    total = counts.sum(axis=-1, keepdims=True)
    pooled = counts + baseline_counts
    p = (pooled / np.maximum(pooled.sum(axis=-1, keepdims=True), 1))[..., None, :]
    a = _CONCENTRATIONS[:, None] * np.where(p > 0, p, 1)
    n = counts[..., None, :]
    terms = gammaln(n + a) - gammaln(a) - n * np.log(np.where(p > 0, p, 1))
    logs = np.where(p > 0, terms, 0).sum(axis=-1) + gammaln(_CONCENTRATIONS) - gammaln(total + _CONCENTRATIONS)
    return np.asarray(np.maximum(logsumexp(logs, axis=-1) - np.log(len(_CONCENTRATIONS)), 0))
