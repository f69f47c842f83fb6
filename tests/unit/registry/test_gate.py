"""The comparison with the model in production, and the table of the checks."""

import io

import numpy as np
from rich.console import Console

from src.mlops.registry.gate import Check, better, not_worse, show


class TestMcNemar:
    def test_known_p_value(self) -> None:
        # 1 lost and 8 won of 9: one-sided P(X >= 1) = 1 - 0.5^9. With the models swapped: 10 / 512.
        a = np.array([True] * 8 + [False] + [True] * 91)
        b = np.array([False] * 8 + [True] + [True] * 91)
        assert not_worse(a, b, 0.05).passed
        worse = not_worse(b, a, 0.05)
        assert not worse.passed
        assert f"p = {10 / 512:.3g}" in worse.found

    def test_equal_models_are_not_worse_and_not_better(self) -> None:
        right = np.array([True, False, True])
        assert not_worse(right, right, 0.05).passed
        assert not better(right, right, 0.05).passed

    def test_better_by_chance_is_not_enough(self) -> None:
        wrong, right = np.array([False] * 5), np.array([True] * 5)
        assert better(right, wrong, 0.05).passed  # 0.5^5 = 0.031
        assert not better(right[:4], wrong[:4], 0.05).passed  # 0.5^4 = 0.0625
        assert not better(wrong, right, 0.05).passed


def test_names_of_classes_are_no_markup() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(show([Check("F1 of the weakest class", "0.500 ([red]bolt[/])", ">= 0.9", passed=False)]))
    assert "0.500 ([red]bolt[/])" in console.export_text()
