"""Honest probabilities: temperature, prediction sets, and the decision that a picture is no known sign.

All numbers are fitted on validation images and stored in the model file. Applying them needs NumPy only.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

# What each class beyond the first costs in a prediction set (λ of the paper; its k_reg is 1), so that sets of sure
# pictures stay small. Chosen by the mean size on validation images: docs/experiments.md.
PENALTY = 0.005


@dataclass(frozen=True)
class Calibration:
    """What turns logits into answers.

    Attributes:
        temperature: Divides the logits (Guo et al., "On Calibration of Modern Neural Networks", 2017).
        set_threshold: Classes whose cumulative score does not exceed this form the prediction set, RAPS (Angelopoulos
            et al., "Uncertainty Sets for Image Classifiers using Conformal Prediction", 2021).
        energy_threshold: A picture whose energy, -T log Σ exp(logit / T), lies above this is called unknown (Liu et
            al., "Energy-based Out-of-distribution Detection", 2020).
        coverage: Share of pictures whose set holds the true class, as asked for when the threshold was fitted.
        penalty: What each class beyond the first costs in a set.
    """

    temperature: float = 1.0
    set_threshold: float = math.inf
    energy_threshold: float = math.inf
    coverage: float = 1.0
    penalty: float = PENALTY

    @classmethod
    def fit(
        cls, logits: NDArray[np.float32], labels: NDArray[np.int64], coverage: float = 0.999, false_alarms: float = 0.01
    ) -> Self:
        """Fits all numbers on images that were not trained on.

        Args:
            logits: float32 [N, C].
            labels: int64 [N].
            coverage: Share of pictures whose prediction set shall hold the true class, above 0 and below 1.
            false_alarms: Share of real signs that may be called unknown, above 0 and below 1.
        """
        from scipy.optimize import minimize_scalar

        rows = np.arange(len(labels))

        def negative_log_likelihood(log_temperature: float) -> float:
            scaled = logits.astype(np.float64) / np.exp(log_temperature)
            return float(np.mean(_logsumexp(scaled) - scaled[rows, labels]))

        found = minimize_scalar(negative_log_likelihood, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
        fitted = cls(temperature=float(np.exp(found.x)))
        order, scores = fitted._ranked(fitted.probabilities(logits))
        true_scores = np.sort(scores[order == labels[:, None]])
        # The finite-sample quantile of split conformal prediction; too few images for it leave every class in.
        rank = math.ceil((len(labels) + 1) * coverage)
        return cls(
            temperature=fitted.temperature,
            set_threshold=float(true_scores[rank - 1]) if rank <= len(labels) else math.inf,
            energy_threshold=float(np.quantile(fitted.energy(logits), 1 - false_alarms)),
            coverage=coverage,
        )

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns softmax probabilities at the calibrated temperature, float64 [N, C]."""
        scaled = logits.astype(np.float64) / self.temperature
        return np.exp(scaled - _logsumexp(scaled)[:, None])

    def energy(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns the energy of each row, float64 [N]; the lower, the more the picture looks like a known sign."""
        return -self.temperature * _logsumexp(logits.astype(np.float64) / self.temperature)

    def prediction_sets(self, probabilities: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int64], list[list[int]]]:
        """Ranks the classes, and tells which cannot be ruled out.

        Args:
            probabilities: [N, C].

        Returns:
            The classes of each row, best first, int [N, C]; and those of each row that cannot be ruled out, in
            ascending order. The most probable class is always among them.
        """
        order, scores = self._ranked(probabilities)
        # Served probabilities are float32, those that were fitted on float64; scores rise along a row.
        counts = np.maximum((scores <= self.set_threshold + 1e-6).sum(axis=1), 1).tolist()
        return order, [sorted(ranked[:count].tolist()) for ranked, count in zip(order, counts, strict=True)]

    def _ranked(self, probabilities: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int64], NDArray[np.floating[Any]]]:
        """Ranks the classes of each row; returns them best first, int [N, C], and the score at which each enters."""
        order = np.argsort(-probabilities, axis=1, kind="stable")
        cumulative = np.take_along_axis(probabilities, order, axis=1).cumsum(axis=1)
        return order, cumulative + self.penalty * np.arange(probabilities.shape[1])

    def is_unknown(self, energy: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Returns for each energy [N] whether its picture looks like no known sign, bool [N]."""
        return np.asarray(energy > self.energy_threshold)

    def to_dict(self) -> dict[str, float]:
        """Returns the numbers as a model file stores them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """Reads the numbers from a model file.

        Raises:
            TypeError: A number is missing, unknown, or no number.
            ValueError: A number is out of its range.
        """
        calibration = cls(**{name: float(value) for name, value in stored.items()})
        sane = (
            0 < calibration.temperature < math.inf
            and calibration.set_threshold > 0
            and not math.isnan(calibration.energy_threshold)
            and 0 < calibration.coverage <= 1
            and calibration.penalty >= 0
        )
        if not sane:
            raise ValueError(str(calibration))
        return calibration


def expected_calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64], bins: int = 15) -> float:
    """Computes the gap between confidence and accuracy, averaged over equal bins of confidence (Guo et al. 2017).

    Args:
        probabilities: float64 [N, C].
        labels: int64 [N].
        bins: Number of bins.

    Returns:
        0 (honest) to 1.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(np.sum(correct[bin_of == b]) - np.sum(confidence[bin_of == b])) for b in range(bins)]
    return float(sum(gaps) / len(labels))


def _logsumexp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    highest = values.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(values - highest).sum(axis=1)) + highest[:, 0])
