"""Calibration of a model: temperature, prediction sets and the threshold for unknown images.

All numbers are fitted on validation images and stored in the model file. Applying them needs NumPy only.
"""

import logging
import math
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from src.mlops.modelfile.unknown import OTHER_CLASSES, energy, fit_threshold, logsumexp, unknown_score

logger = logging.getLogger(__name__)
# A threshold that no real score or energy exceeds. JSON has no infinity, so this is the largest float32.
UNLIMITED = float(np.finfo(np.float32).max)
# Added to the score of each class beyond the first (λ of the RAPS paper; its k_reg is 1). It keeps the prediction sets
# of confident predictions small. Chosen by the mean set size on validation images: docs/explanation/experiments.md.
PENALTY = 0.005


@dataclass(frozen=True)
class Calibration:
    """The numbers that turn logits into probabilities, prediction sets and the decision that an image is unknown.

    Attributes:
        temperature: Divisor of the logits (Guo et al., "On Calibration of Modern Neural Networks", 2017).
        set_threshold: The prediction set contains the classes whose cumulative score does not exceed this value: RAPS
            (Angelopoulos et al., "Uncertainty Sets for Image Classifiers using Conformal Prediction", 2021).
        unknown_threshold: An image is unknown if its score, the result of `unknown_score`, is above this value.
        energy_threshold: An image is also unknown if its energy is above this value. Only models of earlier releases
            have such a threshold.
        coverage: Requested share of images whose prediction set contains the true class, as given to `fit`.
        penalty: Added to the score of each class beyond the first.
        attained_coverage: The share that the number of calibration images allows: `coverage`, or less if there were
            too few images.
        other_classes: Weight of the other classes in the result of `unknown_score`.
    """

    temperature: float = 1.0
    set_threshold: float = UNLIMITED
    unknown_threshold: float = UNLIMITED
    energy_threshold: float = UNLIMITED
    coverage: float = 1.0
    penalty: float = PENALTY
    attained_coverage: float = 1.0
    other_classes: float = OTHER_CLASSES

    @classmethod
    def fit(
        cls, logits: NDArray[np.float32], labels: NDArray[np.int64], coverage: float = 0.999, false_alarms: float = 0.01
    ) -> Self:
        """Fits all numbers on images that the model was not trained on.

        Split conformal prediction reaches a coverage of at most n / (n + 1) with n images. If `coverage` is higher, the
        prediction sets use this highest coverage; `warn_about_coverage` reports it.

        Args:
            logits: float32 [N, C].
            labels: int64 [N].
            coverage: Share of images whose prediction set must contain the true class, above 0 and below 1.
            false_alarms: Target false-positive rate on images of known classes, above 0 and below 1.

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
        probabilities = fitted.probabilities(logits)
        order, scores = fitted._ranked(probabilities)
        true_scores = np.sort(scores[order == labels[:, None]])
        # The finite-sample quantile of split conformal prediction. With too few images it does not exist; the highest
        # score of all images then gives the highest coverage that they allow.
        rank = min(math.ceil((len(labels) + 1) * coverage), len(labels))
        return cls(
            temperature=fitted.temperature,
            set_threshold=float(true_scores[rank - 1]),
            unknown_threshold=fit_threshold(
                fitted.unknown_scores(probabilities, energy(logits, fitted.temperature)), false_alarms
            ),
            coverage=coverage,
            attained_coverage=attainable_coverage(len(labels), coverage),
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

    def unknown_scores(
        self, probabilities: NDArray[np.floating[Any]], energies: NDArray[np.floating[Any]]
    ) -> NDArray[np.float64]:
        """Returns the result of `unknown_score` for each image, float64 [N].

        Args:
            probabilities: Float [N, C].
            energies: Float [N].
        """
        return unknown_score(probabilities, energies, self.temperature, self.other_classes)

    def is_unknown(
        self, probabilities: NDArray[np.floating[Any]], energies: NDArray[np.floating[Any]]
    ) -> NDArray[np.bool_]:
        """Returns whether each image is unknown, bool [N].

        Args:
            probabilities: Float [N, C].
            energies: Float [N].
        """
        scores = self.unknown_scores(probabilities, energies)
        return np.asarray((scores > self.unknown_threshold) | (energies > self.energy_threshold))

    def _ranked(self, probabilities: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int64], NDArray[np.floating[Any]]]:
        """Returns the classes of each row, most probable first, int64 [N, C], and their cumulative scores [N, C].

        The sums are float64: with a thousand classes, those of float32 are off by more than the tolerance.
        """
        order = np.argsort(-probabilities, axis=1, kind="stable")
        cumulative = np.take_along_axis(probabilities, order, axis=1).cumsum(axis=1, dtype=np.float64)
        return order, cumulative + self.penalty * np.arange(probabilities.shape[1])

    def to_dict(self) -> dict[str, float]:
        """Returns the numbers by name, in the form that model files store."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """Returns the calibration that a model file stores.

        Files of earlier releases have no `attained_coverage` and no `unknown_threshold`, and have infinite thresholds
        if there were too few images. Their prediction sets contain all classes, so they attain the requested coverage.

        Raises:
            TypeError: A name is unknown, or a value cannot be converted to a number.
            ValueError: A value is not a number, or is out of range.
        """
        numbers = {name: float(value) for name, value in stored.items()}
        for name in numbers.keys() & {"set_threshold", "unknown_threshold", "energy_threshold"}:
            if math.isinf(numbers[name]):
                numbers[name] = math.copysign(UNLIMITED, numbers[name])
        calibration = cls(**({"attained_coverage": numbers.get("coverage", 1.0)} | numbers))
        sane = (
            0 < calibration.temperature < math.inf
            and calibration.set_threshold > 0
            and not math.isnan(calibration.unknown_threshold)
            and not math.isnan(calibration.energy_threshold)
            and 0 < calibration.coverage <= 1
            and 0 <= calibration.penalty < math.inf
            and 0 < calibration.attained_coverage <= 1
            and 0 <= calibration.other_classes < math.inf
        )
        if not sane:
            raise ValueError(f"A value is out of range in {calibration}")
        return calibration


def attainable_coverage(images: int, coverage: float) -> float:
    """Returns the coverage that prediction sets attain with a number of calibration images.

    The bound n / (n + 1) is that of split conformal prediction (Vovk et al., "Algorithmic Learning in a Random World",
    2005): the score of a new image has each rank among n + 1 scores with the same probability.

    Args:
        images: Number of calibration images.
        coverage: The requested coverage.
    """
    return min(coverage, images / (images + 1))


def warn_about_coverage(images: int, coverage: float) -> None:
    """Logs a warning if there are too few calibration images for the requested coverage.

    Args:
        images: Number of calibration images.
        coverage: The requested coverage.
    """
    attained = attainable_coverage(images, coverage)
    if attained < coverage:
        logger.warning(
            "Prediction sets attain a coverage of only %.4g instead of calibration.coverage=%g, because there are only "
            "%d validation images. A coverage of %g needs at least %d",
            *(attained, coverage, images, coverage, math.ceil(coverage / (1 - coverage) - 1e-9)),
        )
