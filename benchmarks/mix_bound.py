"""Computes how often the best test would find that the mix of classes has changed, at given error budgets.

    uv run python -m benchmarks.mix_bound data.raw_dir=../shared/gtsrb evaluation.split=val

The best test is the likelihood ratio between windows of the shift, averaged over its random directions, and the usual
mix (Neyman and Pearson). It knows the usual mix exactly and how shifts are drawn, which no detector does. Its level is
computed by importance sampling from the shift itself. With `all classes`, the factors have a fixed spread instead of
exactly the distance 0.2, so that the mean over directions is a product over the classes; the best spread is given.

The budgets: `one look` is what the detector spends on the mix at one horizon. `all` is for any detector of anything
that has 1 % false alarms in 100,000 images: in at least one of the 333 disjoint windows of 300 images, the first alarm
of a run is raised with a probability of at most 0.01 / 333, and the shift may begin there.

The rows with a baseline have what n images are worth if the usual mix is estimated from m clusters: n m / (n + m).

Writes benchmarks/results/drift_mix_bound.csv.
"""

from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from benchmarks.environment import Row, write_results
from benchmarks.shifts import FEW, other_mix
from src.mlops.cli import Overrides, new_app, typer_main
from src.mlops.config import load_config
from src.mlops.data.prepare import prepare
from src.mlops.monitoring.detector import ERROR_RATE, EVERY, LOOKS, needed

app = new_app()
Array = NDArray[np.float64]
IMAGES = 300
DISTANCE = 0.2
KINDS = ("one class", "three classes", "all classes")
SPREADS = (0.4, 0.5, 0.6, 0.7)
WINDOWS = 4000
BUDGETS = {"one look": float(np.exp(-needed("mix"))), "all": ERROR_RATE * IMAGES / (LOOKS * EVERY)}


@app.command()
def main(overrides: Overrides) -> None:
    """Computes the power of the best tests."""
    config = load_config(overrides)
    labels = prepare(config.data).load(config.evaluation.split).labels
    shares = np.bincount(labels) / len(labels)
    shares = shares[shares > 0]
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    half = len(labels) // 2
    for kind, baseline in product(KINDS, ("known", half)):
        images = IMAGES if baseline == "known" else round(IMAGES * half / (IMAGES + half))
        mixes = np.array([other_mix(shares, kind, DISTANCE, rng) for _ in range(WINDOWS)])
        windows = rng.multinomial(images, mixes)
        pairs = [(_few(windows, shares, FEW[kind]),) * 2] if kind in FEW else _all(windows, shares, rng)
        about = {"split": config.evaluation.split, "shift": f"mix: {kind}", "strength": DISTANCE, "images": IMAGES}
        for budget, level in BUDGETS.items():
            power = round(max(_power(*pair, level) for pair in pairs), 4)
            rows.append(about | {"baseline": baseline, "budget": budget, "level": f"{level:.2g}", "power": power})
    write_results("drift_mix_bound", rows, ("split", "shift", "baseline", "budget"))


def _power(ratios: Array, assumed: Array, level: float) -> float:
    """Returns how many windows exceed the limit that usual windows exceed with the probability `level`.

    Args:
        ratios: Logarithms of the likelihood ratios of windows of the shift, float [W].
        assumed: The same for windows from the distribution in the numerator of the ratio.
        level: Error probability.
    """
    limits = np.sort(assumed)[::-1]
    errors = np.cumsum(np.exp(-limits)) / len(limits)  # the mean of 1 / ratio above each of them
    return float((ratios >= limits[max(int(np.searchsorted(errors, level)) - 1, 0)]).mean())


def _few(windows: NDArray[np.int64], shares: Array, count: int) -> Array:
    """Returns log ratios for random classes that become more frequent, float [W]."""
    sets = np.array(list(combinations(range(len(shares)), count)))
    usual, found = shares[sets].sum(axis=1), windows[:, sets].sum(axis=2)
    others = windows.sum(axis=1, keepdims=True) - found
    terms = found * np.log1p(DISTANCE / usual) + others * np.log1p(-DISTANCE / (1 - usual))
    return np.asarray(logsumexp(terms, axis=1) - np.log(len(sets)))


def _all(windows: NDArray[np.int64], shares: Array, rng: np.random.Generator) -> list[tuple[Array, Array]]:
    """Returns log ratios for log-normal factors of all classes, and those of windows with such factors."""
    pairs, images = [], windows[0].sum()
    for spread in SPREADS:
        mixes = shares * np.exp(spread * rng.normal(size=(WINDOWS, len(shares))))
        assumed = rng.multinomial(images, mixes / mixes.sum(axis=1, keepdims=True))
        pairs.append((_log_normal(windows, shares, spread), _log_normal(assumed, shares, spread)))
    return pairs


def _log_normal(windows: NDArray[np.int64], shares: Array, spread: float) -> Array:
    """Returns the mean ratio, as in `evidence.mix`, by Gauss-Hermite quadrature for each class."""
    n = int(windows[0].sum())
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    weights, factors = weights / weights.sum(), np.exp(spread * nodes)
    x = np.arange(-0.7, 0.7, 1 / np.sqrt(n))
    logs = np.zeros((len(windows), len(x))) + n * x
    for label, share in enumerate(shares):
        counts = np.arange(windows[:, label].max() + 1)[:, None, None]
        terms = counts * np.log(factors) - n * share * np.exp(x)[:, None] * factors
        logs += logsumexp(terms, axis=-1, b=weights)[windows[:, label]]
    return np.asarray(logsumexp(logs, axis=1) + np.log(x[1] - x[0]) + n * np.log(n) - gammaln(n))


if __name__ == "__main__":
    typer_main(app)
