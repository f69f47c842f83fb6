"""Accuracy and macro averages, for the epochs of a training and for evaluation."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, precision_recall_fscore_support


def classification_metrics(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[str, float]:
    """Returns accuracy and macro averages over the classes that occur in the labels.

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
