"""Accuracy, macro averages and metrics per class."""

import numpy as np
import pytest

from src.mlops.data.gtsrb import SIGNS
from src.mlops.evaluation.metrics import per_class_metrics
from src.mlops.training.metrics import classification_metrics


class TestMetrics:
    labels = np.array([0, 0, 0, 1, 1, 5])
    predicted = np.array([0, 0, 1, 1, 1, 2])

    def test_macro_averages_over_the_classes_that_occur(self) -> None:
        metrics = classification_metrics(self.labels, self.predicted)
        assert metrics["Accuracy"] == pytest.approx(4 / 6)
        assert metrics["Recall"] == pytest.approx((2 / 3 + 1 + 0) / 3)
        assert metrics["Precision"] == pytest.approx((1 + 2 / 3 + 0) / 3)

    def test_per_class(self) -> None:
        rows = per_class_metrics(self.labels, self.predicted, SIGNS)
        assert [(row["class_id"], row["images"]) for row in rows] == [(0, 3), (1, 2), (5, 1)]
        assert rows[0]["recall"] == pytest.approx(2 / 3)
