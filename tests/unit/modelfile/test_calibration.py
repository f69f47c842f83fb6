"""Calibrated probabilities, prediction sets and the threshold of unknown images."""

import math

import numpy as np
import pytest

from src.mlops.evaluation.metrics import expected_calibration_error
from src.mlops.modelfile.calibration import Calibration, warn_about_coverage
from src.mlops.modelfile.unknown import energy, unknown_score


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
        energies = energy(fresh, calibration.temperature)
        unknown = calibration.is_unknown(calibration.probabilities(fresh), energies)
        assert unknown.mean() == pytest.approx(0.01, abs=0.004)

    @pytest.mark.parametrize(("images", "attained"), [(1, 0.5), (100, 100 / 101), (998, 998 / 999), (999, 0.999)])
    def test_too_few_images_give_the_highest_coverage_that_they_allow(self, images: int, attained: float) -> None:
        logits, labels = self.drawn(1.0, images)
        calibration = Calibration.fit(logits, labels)
        assert (calibration.coverage, calibration.attained_coverage) == (0.999, attained)
        assert all(map(math.isfinite, calibration.to_dict().values()))
        _, sets = calibration.prediction_sets(calibration.probabilities(logits))
        assert all(label in kept for label, kept in zip(labels, sets, strict=True))

    def test_sets_of_few_images_reach_the_attained_coverage(self) -> None:
        logits, labels = self.drawn(1.0, 40_000)
        covered, expected = [], 0.0
        for start in range(0, 20_000, 50):  # the coverage holds on average over draws of the calibration images
            calibration = Calibration.fit(logits[start : start + 50], labels[start : start + 50])
            fresh = slice(20_000 + start, 20_000 + start + 50)
            _, sets = calibration.prediction_sets(calibration.probabilities(logits[fresh]))
            covered += [label in kept for label, kept in zip(labels[fresh], sets, strict=True)]
            expected = calibration.attained_coverage
        assert np.mean(covered) == pytest.approx(expected, abs=0.005)

    @pytest.mark.parametrize(("images", "logged"), [(998, "at least 999"), (999, "")])
    def test_warns_about_too_few_images(self, images: int, logged: str, caplog: pytest.LogCaptureFixture) -> None:
        warn_about_coverage(images, 0.999)
        assert (logged in caplog.text) if logged else not caplog.text

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
        calibration = Calibration(1.5, 0.1, -3.0, -2.0, 0.99)
        assert Calibration.from_dict(calibration.to_dict()) == calibration

    def test_files_of_earlier_releases(self) -> None:
        thresholds = dict.fromkeys(["set_threshold", "energy_threshold", "unknown_threshold"], math.inf)
        stored = {"temperature": 1.5, "coverage": 0.99, **thresholds}
        calibration = Calibration.from_dict(stored)
        assert calibration.attained_coverage == 0.99
        assert all(map(math.isfinite, calibration.to_dict().values()))
        assert calibration.prediction_sets(np.full((1, 43), 1 / 43))[1] == [list(range(43))]
        highest = np.array([np.finfo(np.float32).max], np.float32)
        assert not calibration.is_unknown(np.full((1, 43), 1 / 43), highest).any()

    def test_an_energy_threshold_of_earlier_releases_is_applied(self) -> None:
        calibration = Calibration.from_dict({"temperature": 1.5, "energy_threshold": -2.0})
        confident = np.tile(np.float32([0.99, 0.01]), (2, 1))
        assert calibration.is_unknown(confident, np.float32([-2.1, -1.9])).tolist() == [False, True]

    def test_neutral_values_are_finite(self) -> None:
        assert all(map(math.isfinite, Calibration().to_dict().values()))

    def test_calibration_error_of_overconfident_probabilities(self) -> None:
        probabilities = np.tile([0.9, 0.1], (100, 1))
        labels = np.array([0] * 50 + [1] * 50)
        assert expected_calibration_error(probabilities, labels) == pytest.approx(0.4)


class TestUnknownScore:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
    def test_is_the_weighted_log_odds_against_the_predicted_class(self, temperature: float, dtype: type) -> None:
        logits = np.array([[8, 1, -2], [-1, -2, -3], [5, 5, 0], [20, 2, 1]], np.float32)
        *others, highest = np.exp(np.sort(logits.astype(float), axis=1) / temperature).T
        expected = np.log((1 + 0.03 * sum(others)) / highest)
        probabilities = Calibration(temperature).probabilities(logits).astype(dtype)
        scores = unknown_score(probabilities, energy(logits, temperature).astype(dtype), temperature)
        np.testing.assert_allclose(scores, expected, rtol=1e-5)

    def test_an_image_between_two_classes_has_a_higher_score(self) -> None:
        scores = unknown_score(np.array([[0.99, 0.01], [0.5, 0.5]], np.float32), np.array([-6, -6], np.float32), 0.5)
        assert scores[1] > scores[0] + 1

    def test_the_energy_decides_between_certain_predictions(self) -> None:
        certain = np.tile(np.array([1, 0], np.float32), (3, 1))
        scores = unknown_score(certain, np.array([-100, -50, 100], np.float32), 0.5)
        assert scores.tolist() == pytest.approx([-200, -100, 200])

    def test_false_alarms_are_kept_if_all_predictions_are_certain(self) -> None:
        rng = np.random.default_rng(0)
        labels = np.tile(np.arange(10), 100)
        logits = (8 + 30 * np.eye(10)[labels] + rng.normal(0, 1, (1000, 10))).astype(np.float32)
        calibration = Calibration.fit(logits, labels)
        known = calibration.is_unknown(calibration.probabilities(logits), energy(logits, calibration.temperature))
        assert known.mean() == pytest.approx(0.01, abs=0.002)
        other = np.full((1, 10), -1, np.float32)
        assert calibration.is_unknown(calibration.probabilities(other), energy(other, calibration.temperature)).all()

    def test_the_weight_of_the_other_classes_is_stored(self) -> None:
        calibration = Calibration(other_classes=0.5)
        assert Calibration.from_dict(calibration.to_dict()) == calibration
        uncertain, energies = np.array([[0.6, 0.4]], np.float32), np.array([-5], np.float32)
        assert calibration.unknown_scores(uncertain, energies) > Calibration().unknown_scores(uncertain, energies)
