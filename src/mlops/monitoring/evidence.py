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
_CONCENTRATIONS = np.array([30.0, 100.0, 300.0])  # of the Dirichlet distributions; the smaller, the more different
_FACTORS = (1.7, 2.5, 4.0, 8.0)  # by which a class may have become more frequent
_UNCHANGED = 0.85  # prior probability of a class to have the same frequency
_PRIORS = np.full(len(_FACTORS), (1 - _UNCHANGED) / len(_FACTORS))


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
    pairs, place = np.unique(
        np.stack([found, counts]).reshape(2, -1), axis=1, return_inverse=True
    )  # few different ones
    k, n = pairs
    log_p = stats.hypergeom.logsf(k - 1, n + baseline_count, n, k + rank - 1)
    return np.asarray(np.where(k > 0, -log_p, 0.0)[place.ravel()].reshape(found.shape))


def mix(counts: Array, baseline_counts: Array) -> Array:
    """Returns the evidence that the window has another mix of classes.

    Given the classes of both samples together, with shares p, the window is a sample without replacement. Any statistic
    whose mean is at most 1 is then an e-value, and its logarithm is a valid evidence by Markov's inequality. The mean
    of two e-values is used: `_spread` for small changes of all classes and `_sparse` for a few frequent ones.

    Args:
        counts: Number of the window's clusters of each class, float [..., C].
        baseline_counts: Number of the baseline's clusters of each class, float [C].
    """
    pooled = counts + baseline_counts
    shares = pooled / np.maximum(pooled.sum(axis=-1, keepdims=True), 1)
    evidence = np.logaddexp(_spread(counts, shares), _sparse(counts, shares)) - np.log(2)
    return np.asarray(np.maximum(evidence, 0))


def _spread(counts: Array, shares: Array) -> Array:
    """Returns the logarithm of a mean of likelihood ratios prod (q / p)^counts over q from Dirichlet distributions.

    For each q, the mean of the ratio is 1 for a sample with replacement, and so at most 1 without (Hoeffding, 1963,
    theorem 4). The mean over q has a closed form.
    """
    total = counts.sum(axis=-1, keepdims=True)
    p = np.where(shares > 0, shares, 1)[..., None, :]
    a, n = _CONCENTRATIONS[:, None] * p, counts[..., None, :]
    terms = np.where(shares[..., None, :] > 0, gammaln(n + a) - gammaln(a) - n * np.log(p), 0)
    logs = terms.sum(axis=-1) + gammaln(_CONCENTRATIONS) - gammaln(total + _CONCENTRATIONS)
    return np.asarray(logsumexp(logs, axis=-1) - np.log(len(_CONCENTRATIONS)))


def _sparse(counts: Array, shares: Array) -> Array:
    """Returns the logarithm of a product over the classes of mixtures over how much more frequent a class has become.

    For each factor f, the mean of f^count is at most (1 + p (f - 1))^total (Hoeffding). The counts of a sample without
    replacement are negatively associated (Joag-Dev and Proschan, 1983), so the mean of a product of increasing
    functions of them is at most the product of the means.
    """
    total = counts.sum(axis=-1)[..., None]
    growth = [
        np.log(prior) + counts * np.log(factor) - total * np.log1p(shares * (factor - 1))
        for factor, prior in zip(_FACTORS, _PRIORS, strict=True)
    ]
    return np.asarray(logsumexp(np.stack([np.full(shares.shape, np.log(_UNCHANGED)), *growth]), axis=0).sum(axis=-1))
