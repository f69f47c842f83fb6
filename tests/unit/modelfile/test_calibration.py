"""Calibrated probabilities, prediction sets and the threshold of unknown images."""

import numpy as np
import pytest

from src.mlops.evaluation.metrics import expected_calibration_error
from src.mlops.modelfile.calibration import Calibration
from src.mlops.modelfile.unknown import energy, is_unknown


class TestCalibration:
    @staticmethod
    def drawn(scale: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
        """Returns logits and labels. The softmax at temperature `scale` is the true distribution of the labels."""
        rng = np.random.default_rng(0)
        unscaled = rng.normal(0, 2, (count, 10)).astype(np.float32)
        labels = (unscaled + rng.gumbel(size=unscaled.shape)).argmax(axis=1)
        return unscaled * np.float32(scale), labels

    @pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
    def test_temperature_calibrates_the_probabilities(self, scale: float) -> None:
        logits, labels = self.drawn(scale)
        calibration = Calibration.fit(logits, labels)
        assert calibration.temperature == pytest.approx(scale, rel=0.05)
        assert expected_calibration_error(calibration.probabilities(logits), labels) < 0.01
        np.testing.assert_allclose(calibration.probabilities(logits).sum(axis=1), 1)

    def test_sets_reach_the_coverage_and_false_alarms_stay_rare(self) -> None:
        logits, labels = self.drawn(1.0, 40_000)
        calibration = Calibration.fit(logits[:20_000], labels[:20_000])
        fresh, truth = logits[20_000:], labels[20_000:]
        _, sets = calibration.prediction_sets(calibration.probabilities(fresh))
        covered = np.array([label in kept for label, kept in zip(truth, sets, strict=True)])
        assert covered.mean() == pytest.approx(0.999, abs=0.0011)
        unknown = is_unknown(energy(fresh, calibration.temperature), calibration.energy_threshold)
        assert unknown.mean() == pytest.approx(0.01, abs=0.004)

    def test_with_too_few_images_sets_contain_all_classes(self) -> None:
        logits, labels = self.drawn(1.0, 100)
        calibration = Calibration.fit(logits, labels)
        assert calibration.prediction_sets(calibration.probabilities(logits))[1][0] == list(range(10))

    @pytest.mark.parametrize("coverage", [0.5, 0.9, 0.99])
    def test_sets_reach_the_requested_coverage(self, coverage: float) -> None:
        logits, labels = self.drawn(1.0, 40_000)
        calibration = Calibration.fit(logits[:20_000], labels[:20_000], coverage=coverage)
        _, sets = calibration.prediction_sets(calibration.probabilities(logits[20_000:]))
        covered = np.mean([label in kept for label, kept in zip(labels[20_000:], sets, strict=True)])
        # Sets are never empty, so the coverage cannot be lower than the accuracy.
        assert covered >= coverage - 0.01
        if coverage >= 0.9:
            assert covered == pytest.approx(coverage, abs=0.015)

    def test_the_set_of_a_confident_prediction_has_one_class(self) -> None:
        calibration = Calibration(set_threshold=0.95)
        assert calibration.prediction_sets(np.array([[0.01, 0.98, 0.01], [0.5, 0.3, 0.2]]))[1] == [[1], [0, 1]]

    def test_is_restored_from_its_dict(self) -> None:
        calibration = Calibration(1.5, 0.1, -3.0, 0.99)
        assert Calibration.from_dict(calibration.to_dict()) == calibration

    def test_calibration_error_of_overconfident_probabilities(self) -> None:
        probabilities = np.tile([0.9, 0.1], (100, 1))
        labels = np.array([0] * 50 + [1] * 50)
        assert expected_calibration_error(probabilities, labels) == pytest.approx(0.4)
