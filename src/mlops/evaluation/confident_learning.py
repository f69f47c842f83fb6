"""Confident learning: which labels do predictions contradict (Northcutt et al., "Confident Learning", JAIR 2021)?

The authors' package, cleanlab, contains this method among many others, and needs two seconds to import. The part that
is used here is short: its confident joint on the images of `benchmarks/label_errors.py` is the same.
"""

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.floating]
Labels = NDArray[np.int64]


def doubtful_labels(probabilities: Probabilities, labels: Labels) -> NDArray[np.int64]:
    """Returns the positions of the images that probably have a wrong label, the most doubtful first.

    Their number is the estimate of `estimate_errors`. They are ranked by `own_probability`.

    Args:
        probabilities: Predictions of models that were not trained on these images, float [N, C].
        labels: Given labels, int64 [N].

    Returns:
        Positions, int64 [K], only of images whose most probable class is not their label.
    """
    order = np.argsort(own_probability(probabilities, labels), kind="stable")
    contradicted = probabilities.argmax(axis=1) != labels
    return np.asarray(order[contradicted[order]][: estimate_errors(probabilities, labels)])


def estimate_errors(probabilities: Probabilities, labels: Labels) -> int:
    """Estimates how many labels are wrong.

    The confident joint only counts images with a confident prediction. Of these, the share of a class that belongs to
    other classes is assumed to be the same as of all its images.
    """
    joint = confident_joint(probabilities, labels)
    counted = joint.sum(axis=1)
    wrong = counted - joint.diagonal()
    share = np.divide(wrong, counted, out=np.zeros(len(joint)), where=counted > 0)
    return round(float(share @ np.bincount(labels, minlength=len(joint))))


def confident_joint(probabilities: Probabilities, labels: Labels) -> NDArray[np.int64]:
    """Returns the numbers of images by label (row) and confident class (column), int64 [C, C]; without the others."""
    confident = confident_classes(probabilities, labels)
    counted = confident >= 0
    joint = np.zeros((probabilities.shape[1],) * 2, np.int64)
    np.add.at(joint, (labels[counted], confident[counted]), 1)
    return joint


def confident_classes(probabilities: Probabilities, labels: Labels) -> NDArray[np.int64]:
    """Returns the class that each image belongs to with confidence, int64 [N]; -1 if there is none.

    A prediction is confident if its probability is at least the mean probability of this class for the images that have
    it as their label. A threshold per class compensates for classes that the model predicts too often or too rarely. Of
    several such classes, the most probable one is returned.
    """
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, own_probability(probabilities, labels), minlength=classes)
    thresholds = np.divide(sums, counts, out=np.full(classes, np.inf), where=counts > 0)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    return np.where(confident.max(axis=1) >= 0, confident.argmax(axis=1), -1)


def own_probability(probabilities: Probabilities, labels: Labels) -> Probabilities:
    """Returns the probability of each image's label, float [N]; the authors call it self-confidence."""
    return probabilities[np.arange(len(labels)), labels]
