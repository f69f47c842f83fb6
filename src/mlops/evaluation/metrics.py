"""The figures that training and evaluation report."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from src.mlops.data.signs import SIGNS


def classification_metrics(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[str, float]:
    """Computes accuracy and macro averages over the classes that occur.

    Args:
        labels: True classes, int64 [N].
        predicted: Predicted classes, int64 [N].

    Returns:
        `Accuracy`, `Precision`, `Recall` and `F1`, each 0 to 1. A class that is never predicted has precision 0.
    """
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=np.unique(labels), average="macro", zero_division=0
    )
    return {
        "Accuracy": float(accuracy_score(labels, predicted)),
        "Precision": float(precision),
        "Recall": float(recall),
        "F1": float(f1),
    }


def per_class_metrics(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Computes precision, recall, F1 and the number of images of every class that occurs.

    Args:
        labels: True classes, int64 [N].
        predicted: Predicted classes, int64 [N].
    """
    present = np.unique(labels)
    columns = precision_recall_fscore_support(labels, predicted, labels=present, average=None, zero_division=0)
    return [
        {
            "class_id": int(class_id),
            "name": SIGNS[class_id].name,
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "images": int(images),
        }
        for class_id, precision, recall, f1, images in zip(present, *columns, strict=True)
    ]
