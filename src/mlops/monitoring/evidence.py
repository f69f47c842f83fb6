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
_LOG_FACTORS = np.log(2) * np.linspace(-3, 4, 15)  # by which the share of a class may have changed: 1/8 to 16
_SPREADS = (0.3, 0.6)  # standard deviations of the logarithm of the factor if all classes have changed
_RAISED = 0.05  # probability of each class to be one of a few that have become more frequent, by 1.5 or more
_NARROW, _WIDE = -0.8, 0.4  # limits of the integral over the logarithm of 1 / S
_DRAWS = 200  # for a more exact error probability of the test of the mix
_WORTH = 5.5  # nats below the needed evidence from which the exact probability is computed: it gains about 4
_CHUNK = 64


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


def mix(counts: Array, baseline_counts: Array, needed: float) -> Array:
    """Returns the evidence that the window has another mix of classes.

    Given the counts of both samples together, those of the window have a multivariate hypergeometric distribution P.
    `_log_ratio` compares it with a distribution Q of other mixes. Without drift, the mean of Q / P is at most 1, so
    log(Q / P) is a valid evidence by Markov's inequality. If it is close to the needed one, `_log_tail` replaces it by
    a more exact evidence, which is never smaller: whatever the evidence is, the probability of an alarm is bounded by
    the one of `_log_tail`.

    Args:
        counts: Number of the window's clusters of each class, float [..., C].
        baseline_counts: Number of the baseline's clusters of each class, float [C].
        needed: Evidence that an alarm needs.

    Returns:
        float [...].
    """
    windows = counts.reshape(-1, counts.shape[-1])
    evidence = np.zeros(len(windows))
    sizes = windows.sum(axis=1)
    order = np.argsort(sizes, kind="stable")
    order = order[sizes[order] > 0] if baseline_counts.any() else order[:0]
    for start in range(0, len(order), _CHUNK):
        rows = order[start : start + _CHUNK]
        evidence[rows] = _log_ratio(windows[rows], windows[rows] + baseline_counts)
    for row in np.flatnonzero((evidence > needed - _WORTH) & (evidence < needed)):
        evidence[row] = -_log_tail(evidence[row], int(sizes[row]), windows[row] + baseline_counts)
    return np.maximum(evidence, 0).reshape(counts.shape[:-1])


def _log_ratio(counts: Array, pooled: Array) -> Array:
    """Returns log(Q / P) of windows, float [B]; -inf for a window that is impossible without drift.

    Q is a mixture of multinomial distributions with shares p r / S, where p are the shares of both samples together, r
    independent random factors (`_PRIORS`), and S = sum(p r). The mean over r of a likelihood, prod r^count / S^n, is a
    one-dimensional integral of products over the classes, because 1 / S^n = n^n / (n - 1)! times the integral of
    exp(n x - n S e^x) dx. Its finite limits only make Q smaller. The error of the trapezoidal rule is |Gamma(n + iw)| /
    Gamma(n) with w = 2 pi / step (Poisson's formula): 0.3 % for n = 1, below 1e-5 from n = 50 on.

    Args:
        counts: Number of the window's clusters of each class, float [B, C], n per row.
        pooled: Number of both samples' clusters of each class, float [B, C] or [1, C].
    """
    n, total = counts.sum(axis=1), pooled.sum(axis=1)
    p = pooled / total[:, None]
    step = 1.2 / np.sqrt(n.max())
    x = np.arange(_NARROW, _WIDE, step)
    scale = np.exp(x)[:, None] * np.exp(_LOG_FACTORS)
    logs = n[:, None, None] * x[:, None] + np.zeros(len(_PRIORS))  # [B, X, priors]
    for count, share in zip(counts.T[..., None, None], p.T[..., None, None], strict=True):
        terms = count * _LOG_FACTORS - n[:, None, None] * share * scale
        highest = terms.max(axis=-1, keepdims=True)
        logs += np.log(np.exp(terms - highest) @ _PRIORS.T) + highest
    likelihood = logsumexp(logs, axis=(1, 2)) + np.log(step / len(_PRIORS)) + n * np.log(n) - gammaln(n)
    # The multinomial coefficient of Q is also a part of P.
    rest = pooled - counts
    multinomial = (counts * np.log(np.where(p > 0, p, 1))).sum(axis=1)
    factorials = (gammaln(pooled + 1) - gammaln(np.maximum(rest, 0) + 1)).sum(axis=1)
    logs_of_ratio = likelihood + multinomial - factorials + gammaln(total + 1) - gammaln(total - n + 1)
    return np.asarray(np.where((rest < 0).any(axis=1), -np.inf, logs_of_ratio))


def _log_tail(value: float, n: int, pooled: Array) -> float:
    """Returns log p, where p bounds the probability of a log(Q / P) of at least `value` without drift.

    Windows are drawn from Q and weighted by P / Q. If the observed window is among them, the result is a valid p for
    any number of draws (Harrison, 2012, "Conservative hypothesis tests and confidence intervals using importance
    sampling"). Each weight is at most exp(-value), and so is p: the bound is never worse than Markov's. The draws
    depend on nothing but the counts of both samples together, so that a repeated report is the same.
    """
    rng = np.random.default_rng(pooled.astype(np.int64))
    draws = rng.multinomial(_DRAWS, np.full(len(_PRIORS), 1 / len(_PRIORS)))  # the order of the draws is irrelevant
    factors = np.concatenate(
        [
            np.exp(rng.choice(_LOG_FACTORS, (count, len(pooled)), p=prior))
            for count, prior in zip(draws, _PRIORS, strict=True)
        ]
    )
    shares = pooled * factors
    windows = rng.multinomial(n, shares / shares.sum(axis=1, keepdims=True)).astype(np.float64)
    values = _log_ratio(windows, pooled[None])
    return float(logsumexp(np.append(-values[values >= value], -value)) - np.log(_DRAWS + 1))


def _priors() -> Array:
    """Returns the probability of each factor: all classes change by some spread, or a few become more frequent."""
    all_change = [stats.norm.pdf(_LOG_FACTORS, -(spread**2) / 2, spread) for spread in _SPREADS]
    larger = np.exp(_LOG_FACTORS) >= 1.5
    few_change = _RAISED * larger / larger.sum() + (1 - _RAISED) * np.isclose(_LOG_FACTORS, 0)
    weights = np.stack([*all_change, few_change])
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


_PRIORS = _priors()
