"""Calibration of a model: temperature, prediction sets and the threshold for unknown signs.

All numbers are fitted on validation images and stored in the model file. Applying them needs NumPy only.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from src.mlops.modelfile.unknown import energy, fit_threshold, logsumexp

# Added to the score of each class beyond the first (λ of the RAPS paper; its k_reg is 1). It keeps the prediction sets
# of confident predictions small. Chosen by the mean set size on validation images: docs/experiments.md.
PENALTY = 0.005


@dataclass(frozen=True)
class Calibration:
    """The numbers that turn logits into probabilities, prediction sets and the decision that a sign is unknown.

    Attributes:
        temperature: Divisor of the logits (Guo et al., "On Calibration of Modern Neural Networks", 2017).
        set_threshold: The prediction set contains the classes whose cumulative score does not exceed this value: RAPS
            (Angelopoulos et al., "Uncertainty Sets for Image Classifiers using Conformal Prediction", 2021).
        energy_threshold: A sign is unknown if the energy of its image, -T log Σ exp(logit / T), is above this value
            (Liu et al., "Energy-based Out-of-distribution Detection", 2020).
        coverage: Share of images whose prediction set must contain the true class, as given to `fit`.
        penalty: Added to the score of each class beyond the first.
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
        """Fits all numbers on images that the model was not trained on.

        Args:
            logits: float32 [N, C].
            labels: int64 [N].
            coverage: Share of images whose prediction set must contain the true class, above 0 and below 1.
            false_alarms: Target false-positive rate on known signs, above 0 and below 1.

        Returns:
            The fitted calibration.
        """
        from scipy.optimize import minimize_scalar

        rows = np.arange(len(labels))

        def negative_log_likelihood(log_temperature: float) -> float:
            scaled = logits.astype(np.float64) / np.exp(log_temperature)
            return float(np.mean(logsumexp(scaled) - scaled[rows, labels]))

        found = minimize_scalar(negative_log_likelihood, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
        fitted = cls(temperature=float(np.exp(found.x)))
        order, scores = fitted._ranked(fitted.probabilities(logits))
        true_scores = np.sort(scores[order == labels[:, None]])
        # The finite-sample quantile of split conformal prediction. With too few images it does not exist, and every set
        # contains all classes.
        rank = math.ceil((len(labels) + 1) * coverage)
        return cls(
            temperature=fitted.temperature,
            set_threshold=float(true_scores[rank - 1]) if rank <= len(labels) else math.inf,
            energy_threshold=fit_threshold(energy(logits, fitted.temperature), false_alarms),
            coverage=coverage,
        )

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns softmax probabilities at the calibrated temperature, float64 [N, C]."""
        scaled = logits.astype(np.float64) / self.temperature
        return np.exp(scaled - logsumexp(scaled)[:, None])

    def prediction_sets(self, probabilities: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int64], list[list[int]]]:
        """Returns the ranked classes and the prediction set of each row.

        Args:
            probabilities: Float [N, C].

        Returns:
            The classes of each row, most probable first, int64 [N, C]; and the prediction set of each row, its classes
            in ascending order. The most probable class is always in the set.
        """
        order, scores = self._ranked(probabilities)
        # The tolerance is needed because the threshold was fitted on float64, but the service uses float32.
        # Scores increase along each row, so counting them is enough.
        counts = np.maximum((scores <= self.set_threshold + 1e-6).sum(axis=1), 1).tolist()
        return order, [sorted(ranked[:count].tolist()) for ranked, count in zip(order, counts, strict=True)]

    def _ranked(self, probabilities: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int64], NDArray[np.floating[Any]]]:
        """Returns the classes of each row, most probable first, int64 [N, C], and their cumulative scores [N, C]."""
        order = np.argsort(-probabilities, axis=1, kind="stable")
        cumulative = np.take_along_axis(probabilities, order, axis=1).cumsum(axis=1)
        return order, cumulative + self.penalty * np.arange(probabilities.shape[1])

    def to_dict(self) -> dict[str, float]:
        """Returns the numbers by name, in the form that model files store."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """Returns the calibration that a model file stores.

        Raises:
            TypeError: A name is unknown, or a value cannot be converted to a number.
            ValueError: A value is not a number, or is out of range.
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
            raise ValueError(f"A value is out of range in {calibration}")
        return calibration
