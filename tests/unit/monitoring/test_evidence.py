"""Two-sample tests with guaranteed error probabilities."""

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from src.mlops.monitoring.evidence import exceedances, mix, rank_sum, ranks

Array = NDArray[np.float64]


def _splits(values: list[float], n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns all ways to split values into a window of n and a baseline. Each is equally likely without drift."""
    pooled = np.array(values)
    return [(pooled[list(chosen)], np.delete(pooled, list(chosen))) for chosen in combinations(range(len(pooled)), n)]


def _require_valid(evidence: list[float]) -> None:
    """Checks that evidence of at least e occurs with probability at most exp(-e), for each e that occurs."""
    found = np.array(evidence)
    assert found.min() >= 0
    for value in np.unique(found):
        assert (found >= value - 1e-9).mean() <= np.exp(-value) + 1e-9


class TestRankSum:
    @pytest.mark.parametrize("values", [list(range(11)), [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 9], [1] * 11])
    @pytest.mark.parametrize("n", [1, 3, 5, 8])
    def test_is_valid_for_all_splits(self, values: list[float], n: int) -> None:
        evidence = [
            float(rank_sum(ranks(window, np.sort(rest)).sum(), np.array([n]), np.array([len(rest)])))
            for window, rest in _splits(values, n)
        ]
        _require_valid(evidence)

    def test_finds_a_shift(self) -> None:
        rng = np.random.default_rng(0)
        window, rest = rng.normal(1, 1, 100), np.sort(rng.normal(0, 1, 2000))
        assert rank_sum(ranks(window, rest).sum(), np.array([100]), np.array([2000])) > 17

    def test_strata_without_a_baseline_are_ignored(self) -> None:
        assert rank_sum(np.array(0.0), np.array([7.0]), np.array([0.0])) == 0

    def test_frames_of_a_cluster_count_once(self) -> None:
        one = rank_sum(np.array(0.5), np.array([1.0]), np.array([1000.0]))
        assert one < 1  # a single extreme sign proves nothing, however many frames it has


class TestExceedances:
    @pytest.mark.parametrize("rank", [1, 2, 4])
    @pytest.mark.parametrize("values", [list(range(10)), [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]])
    def test_is_valid_for_all_splits(self, values: list[float], rank: int) -> None:
        evidence = []
        for window, rest in _splits(values, 4):
            found = (window > np.sort(rest)[-rank]).sum()
            evidence.append(float(exceedances(np.array([found]), np.array([4]), rank, len(rest))[0]))
        _require_valid(evidence)


class TestMix:
    @pytest.mark.parametrize("values", [[0, 0, 0, 0, 0, 0, 1, 1, 1, 2], [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]])
    def test_is_valid_for_all_splits(self, values: list[float]) -> None:
        evidence = [
            float(
                mix(np.bincount(window, minlength=4).astype(float), np.bincount(rest, minlength=4).astype(float), 1000)
            )
            for window, rest in _splits(values, 5)
        ]
        _require_valid(evidence)
        assert np.exp(evidence).mean() <= 1.5  # an e-value, apart from the floor at zero

    @pytest.mark.parametrize("pooled", [[90, 60, 30], [30, 20, 130]])
    def test_error_probability_close_to_an_alarm(self, pooled: list[int]) -> None:
        """Compares it with all windows of 60, weighted by their exact probability."""
        window = np.array([(a, b, 60 - a - b) for a in range(61) for b in range(61 - a)])
        window = window[(window <= pooled).all(axis=1)]
        probability = stats.multivariate_hypergeom.pmf(window, pooled, 60)
        simple = np.array([mix(row, pooled - row, 1000.0) for row in window.astype(float)])
        exact = np.array([mix(row, pooled - row, 8.0) for row in window.astype(float)])
        assert (exact >= simple - 1e-9).all()
        for value in (6.5, 8.0):
            reached = probability[exact >= value].sum()
            assert np.exp(-value) / 5 < reached < 1.1 * np.exp(-value)  # 1.1: the draws are random
            assert probability[simple >= value].sum() < np.exp(-value) / 5

    def test_finds_a_class_that_the_baseline_does_not_have(self) -> None:
        assert mix(np.array([80.0, 20.0]), np.array([2000.0, 0.0]), 20.0) > 20

    def test_finds_that_all_classes_have_changed_a_bit(self) -> None:
        counts = np.random.default_rng(0).multinomial(700, [0.012, 0.028] * 25).astype(float)
        assert mix(counts, np.full(50, 80.0), 13.0) > 13

    @pytest.mark.parametrize("window", [np.zeros(3), np.array([1.0, 0.0, 0.0])])
    @pytest.mark.parametrize("baseline", [np.array([5.0, 5.0, 0.0]), np.zeros(3)])
    def test_finds_nothing_without_images(self, window: Array, baseline: Array) -> None:
        assert mix(window, baseline, 10.0) == pytest.approx(0, abs=1)
