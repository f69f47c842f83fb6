"""Honest probabilities: temperature, prediction sets, and the decision that a picture is no known sign.

All three numbers are fitted on validation images and stored in the checkpoint. Applying them needs NumPy only.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

COVERAGE = 0.999  # share of pictures whose prediction set holds the true class
FALSE_ALARMS = 0.01  # share of real signs that may be called unknown


@dataclass(frozen=True)
class Calibration:
    """What turns logits into answers.

    Attributes:
        temperature: Divides the logits (Guo et al., "On Calibration of Modern Neural Networks", 2017).
        set_threshold: A class belongs to the prediction set when its probability reaches this (Sadinle et al.,
            "Least Ambiguous Set-Valued Classifiers", 2019).
        energy_threshold: A picture whose energy, -T log Σ exp(logit / T), lies above this is called unknown (Liu et
            al., "Energy-based Out-of-distribution Detection", 2020).
    """

    temperature: float = 1.0
    set_threshold: float = 0.0
    energy_threshold: float = float("inf")

    @classmethod
    def fit(cls, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Self:
        """Fits all three on images that were not trained on.

        Args:
            logits: float32 [N, C].
            labels: int64 [N].
        """
        from scipy.optimize import minimize_scalar

        rows = np.arange(len(labels))

        def negative_log_likelihood(log_temperature: float) -> float:
            scaled = logits.astype(np.float64) / np.exp(log_temperature)
            return float(np.mean(_logsumexp(scaled) - scaled[rows, labels]))

        found = minimize_scalar(negative_log_likelihood, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
        fitted = cls(temperature=float(np.exp(found.x)))
        true_class = fitted.probabilities(logits)[rows, labels]
        # The finite-sample quantile of split conformal prediction; too few images for it leave every class in.
        rank = int(np.floor((len(labels) + 1) * (1 - COVERAGE))) - 1
        return cls(
            temperature=fitted.temperature,
            set_threshold=float(np.sort(true_class)[rank]) if rank >= 0 else 0.0,
            energy_threshold=float(np.quantile(fitted.energy(logits), 1 - FALSE_ALARMS)),
        )

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns softmax probabilities at the calibrated temperature, float64 [N, C]."""
        scaled = logits.astype(np.float64) / self.temperature
        return np.exp(scaled - _logsumexp(scaled)[:, None])

    def energy(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns the energy of each row, float64 [N]; the lower, the more the picture looks like a known sign."""
        return -self.temperature * _logsumexp(logits.astype(np.float64) / self.temperature)

    def to_dict(self) -> dict[str, float]:
        """Returns the three numbers as a checkpoint stores them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """Reads the three numbers from a checkpoint.

        Raises:
            TypeError: A number is missing, unknown, or no number.
            ValueError: A number is out of its range.
        """
        calibration = cls(**{name: float(value) for name, value in stored.items()})
        if not (0 < calibration.temperature < float("inf") and 0 <= calibration.set_threshold <= 1):
            raise ValueError(f"temperature {calibration.temperature}, set threshold {calibration.set_threshold}")
        if math.isnan(calibration.energy_threshold):
            raise ValueError("energy threshold nan")
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
