"""OOD detection: an image is unknown if its energy is above a threshold.

Liu et al., "Energy-based Out-of-distribution Detection", 2020. Needs NumPy only.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def energy(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Returns the energy of each image, -T log Σ exp(logit / T).

    Args:
        logits: float32 [N, C].
        temperature: The calibrated temperature T.

    Returns:
        The energies, float64 [N]. The lower the energy, the more the image looks like a known class.
    """
    return -temperature * logsumexp(logits.astype(np.float64) / temperature)


def fit_threshold(energies: NDArray[np.float64], false_alarms: float) -> float:
    """Returns the energy that a given share of images of known classes exceeds.

    Args:
        energies: Energies of images that the model was not trained on, float64 [N].
        false_alarms: Target false-positive rate on these images, above 0 and below 1.
    """
    return float(np.quantile(energies, 1 - false_alarms))


def is_unknown(energies: NDArray[np.floating[Any]], threshold: float) -> NDArray[np.bool_]:
    """Returns for each energy, float [N], whether the image is unknown, bool [N]."""
    return np.asarray(energies > threshold)


def logsumexp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns log Σ exp of each row of float64 [N, C] without overflow, float64 [N]."""
    highest = values.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(values - highest).sum(axis=1)) + highest[:, 0])
