"""Metrics of an evaluation in addition to accuracy: metrics per class, and the expected calibration error (ECE)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

from src.mlops.data.classes import ClassList


def per_class_metrics(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: ClassList
) -> list[dict[str, Any]]:
    """Computes precision, recall, F1 and the number of images of every class that occurs.

    Args:
        labels: True classes, int64 [N].
        predicted: Predicted classes, int64 [N].
        classes: The class list.

    Returns:
        One dict per class, in ascending order of `class_id`.
    """
    present = np.unique(labels)
    columns = precision_recall_fscore_support(labels, predicted, labels=present, average=None, zero_division=0)
    return [
        {
            "class_id": int(class_id),
            "name": classes[class_id].name,
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "images": int(images),
        }
        for class_id, precision, recall, f1, images in zip(present, *columns, strict=True)
    ]


def expected_calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64], bins: int = 15) -> float:
    """Computes the gap between confidence and accuracy, averaged over equal bins of confidence (Guo et al. 2017).

    Args:
        probabilities: Predicted probabilities, float64 [N, C].
        labels: True classes, int64 [N].
        bins: Number of bins.

    Returns:
        The error, 0 (perfectly calibrated) to 1.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(np.sum(correct[bin_of == b]) - np.sum(confidence[bin_of == b])) for b in range(bins)]
    return float(sum(gaps) / len(labels))
