"""OOD detection: an image is unknown if its score is above a threshold.

The score joins the energy (Liu et al., "Energy-based Out-of-distribution Detection", 2020) and the probability of the
predicted class (Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in
Neural Networks", 2017). Needs NumPy only.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# The weight of the other known classes in the score. With 0, the score would be the negated highest logit, divided by
# T; with 1, the log-odds of a softmax with one more class. Chosen on left-out classes: docs/explanation/experiments.md.
OTHER_CLASSES = 0.03


def energy(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Returns the energy of each image, -T log Σ exp(logit / T).

    Args:
        logits: float32 [N, C].
        temperature: The calibrated temperature T.

    Returns:
        The energies, float64 [N]. The lower the energy, the more the image looks like a known class.
    """
    return -temperature * logsumexp(logits.astype(np.float64) / temperature)


def unknown_score(
    probabilities: NDArray[np.floating[Any]],
    energies: NDArray[np.floating[Any]],
    temperature: float,
    other_classes: float = OTHER_CLASSES,
) -> NDArray[np.float64]:
    """Returns the weighted log-odds against the predicted class of each image.

    With logits z at temperature T, the score is log((1 + w Σ exp(z_k / T)) / exp(z_y / T)): y is the predicted class,
    the sum is over the other classes, and w is `other_classes`. The 1 stands for something unknown, with logit 0, as in
    training with outliers. The sum raises the score of an image between two known classes, which can be a third sign.
    At full weight, it would raise that of blurred known signs as much, and with them the threshold.

    Args:
        probabilities: Calibrated probabilities, float [N, C].
        energies: The result of `energy`, float [N].
        temperature: The calibrated temperature T.
        other_classes: The weight w of the other classes.

    Returns:
        The scores, float64 [N]. The higher the score, the less the image looks like a known class.
    """
    ascending = np.sort(probabilities.astype(np.float64), axis=1)
    likely, others = ascending[:, -1], ascending[:, :-1].sum(axis=1)
    with np.errstate(divide="ignore"):  # only the energy is left if the other classes have no probability
        against = np.logaddexp(energies.astype(np.float64) / temperature, np.log(other_classes * others))
    return np.asarray(against - np.log(likely))


def fit_threshold(scores: NDArray[np.float64], false_alarms: float) -> float:
    """Returns the score that a given share of images of known classes exceeds.

    Args:
        scores: Scores of images that the model was not trained on, float64 [N].
        false_alarms: Target false-positive rate on these images, above 0 and below 1.
    """
    return float(np.quantile(scores, 1 - false_alarms))


def logsumexp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns log Σ exp of each row of float64 [N, C] without overflow, float64 [N]."""
    highest = values.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(values - highest).sum(axis=1)) + highest[:, 0])
