"""Confident learning: which labels do predictions contradict (Northcutt et al., "Confident Learning", JAIR 2021)?

The package cleanlab of the same authors has this method among many others. The part that is used here is a few lines of
NumPy, which find the same images as its `find_label_issues(filter_by="confident_learning")`.
"""

import numpy as np
from numpy.typing import NDArray


def confident_classes(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the class that each image belongs to with confidence.

    A prediction is confident if its probability is at least the mean probability of the class for the images that have
    it as their label. This threshold per class compensates for classes that the model predicts too often or too rarely.
    Images whose result differs from their label are the off-diagonal of the confident joint.

    Args:
        probabilities: Predictions of models that were not trained on these images, float [N, C].
        labels: Given labels, int64 [N].

    Returns:
        Of the confident classes the most probable one, int64 [N]; the label if there is none.
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    sums = np.bincount(labels, own_probability(probabilities, labels), minlength=probabilities.shape[1])
    thresholds = np.divide(sums, counts, out=np.full(len(counts), np.inf), where=counts > 0)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    return np.where(confident.max(axis=1) >= 0, confident.argmax(axis=1), labels)


def own_probability(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.floating]:
    """Returns the probability of each image's label, float [N]; the authors call it self-confidence."""
    return probabilities[np.arange(len(labels)), labels]


def normalized_margin(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.floating]:
    """Returns how much more probable the label is than the most probable other class, float [N], -1 to 1."""
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return np.asarray(own_probability(probabilities, labels) - others.max(axis=1))


def rank(scores: NDArray[np.floating], contradicted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns the positions of all images, the most suspicious first: contradicted ones, each group by its score."""
    return np.lexsort((scores, ~contradicted))
