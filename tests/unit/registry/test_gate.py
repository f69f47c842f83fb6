"""The comparison with the model in production."""

import numpy as np

from src.mlops.registry.gate import not_worse


class TestMcNemar:
    def test_known_p_value(self) -> None:
        # 1 lost and 8 won of 9: one-sided P(X >= 1) = 1 - 0.5^9. With the models swapped: 10 / 512.
        a = np.array([True] * 8 + [False] + [True] * 91)
        b = np.array([False] * 8 + [True] + [True] * 91)
        assert not_worse(a, b, 0.05).passed
        worse = not_worse(b, a, 0.05)
        assert not worse.passed
        assert f"p = {10 / 512:.3g}" in worse.found

    def test_equal_models_pass(self) -> None:
        right = np.array([True, False, True])
        assert not_worse(right, right, 0.05).passed
