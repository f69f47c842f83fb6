"""Builds the baseline that a model comes with, from labelled images that it was not trained on."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile.unknown import is_unknown
from src.mlops.monitoring import accuracy
from src.mlops.monitoring.baseline import Baseline, Knowledge, Origin, now
from src.mlops.monitoring.descriptors import describe
from src.mlops.monitoring.observations import Floats, Observations, class_centres, features

Pixels = NDArray[np.uint8]
Corrupt = Callable[[Pixels, str, int], Pixels]
_BATCH = 256


class Outputs(NamedTuple):
    """What the network and the descriptors say about N images."""

    predicted: NDArray[np.int64]
    probability: Floats
    energy: Floats
    embedding: NDArray[np.float16]
    descriptors: dict[str, Floats]


def run(classifier: Classifier, images: Pixels) -> Outputs:
    """Classifies and describes preprocessed images, uint8 [N, S, S, 3]."""
    parts = [classifier.run(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    probabilities = np.concatenate([part.probabilities for part in parts])
    return Outputs(
        probabilities.argmax(axis=1),
        probabilities.max(axis=1),
        np.concatenate([part.energy for part in parts]),
        np.concatenate([part.embedding.astype(np.float16) for part in parts]),
        describe(images),
    )


def values_of(outputs: Outputs, centres: Floats) -> Floats:
    """Returns the features of images, float32 [N, F]."""
    return features(
        outputs.descriptors, outputs.predicted, outputs.probability, outputs.energy, outputs.embedding, centres
    )


def observations_of(
    outputs: Outputs, centres: Floats, threshold: float, cluster: NDArray[np.int64] | None = None
) -> Observations:
    """Returns observations one second apart, each a cluster of its own unless `cluster` is given."""
    count = len(outputs.predicted)
    return Observations(
        np.arange(count, dtype=np.float64),
        outputs.predicted,
        is_unknown(outputs.energy, threshold),
        values_of(outputs, centres),
        np.arange(count) if cluster is None else cluster,
    )


def build_reference(
    classifier: Classifier,
    images: Pixels,
    labels: NDArray[np.int64],
    tracks: NDArray[np.int64],
    class_list: str,
    corruptions: Sequence[tuple[str, int]],
    corrupt: Corrupt,
    author: str = "export",
) -> Baseline:
    """Builds the baseline of a model.

    Args:
        classifier: The exported model.
        images: Images of a split that the model was not trained on, uint8 [N, S, S, 3].
        labels: Their classes, int64 [N].
        tracks: Number of the physical sign of each image, int64 [N].
        class_list: Fingerprint of the class list.
        corruptions: Names and severities of the corruptions on which the estimate of the accuracy is fitted.
        corrupt: Returns corrupted images, given images, a name and a severity.
        author: Who builds it.

    Raises:
        DataError: There are too few physical signs.
    """
    classes = len(classifier.info.classes)
    outputs = run(classifier, images)
    centres = class_centres(outputs.embedding, labels, classes)
    confusion = np.zeros((classes, classes), np.float32)
    np.add.at(confusion, (labels, outputs.predicted), 1)
    confusion += np.eye(classes, dtype=np.float32)  # classes that are missing or rare
    confusion /= confusion.sum(axis=1, keepdims=True)
    values, correct, names = _corrupted(classifier, images, labels, outputs, centres, corruptions, corrupt)
    fitted = accuracy.fit(values, correct, names)
    knowledge = Knowledge(centres, confusion, *fitted, _method_error(values, correct, names))
    origin = Origin(
        "reference",
        now(),
        author,
        f"{len(images):,} held-out images of the training data",
        classifier.version,
        class_list,
        list(classifier.info.classes.names),
        len(images),
    )
    observations = observations_of(outputs, centres, classifier.info.calibration.energy_threshold, tracks)
    return Baseline.of(observations, origin, knowledge)


def _corrupted(
    classifier: Classifier,
    images: Pixels,
    labels: NDArray[np.int64],
    clean: Outputs,
    centres: Floats,
    corruptions: Sequence[tuple[str, int]],
    corrupt: Corrupt,
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.str_]]:
    """Returns the features of clean and corrupted images, whether they are classified correctly, and what was done."""

    def each() -> Iterator[tuple[Floats, NDArray[np.bool_], NDArray[np.str_]]]:
        yield values_of(clean, centres), clean.predicted == labels, np.full(len(labels), "")
        for name, severity in corruptions:
            outputs = run(classifier, corrupt(images, name, severity))
            yield values_of(outputs, centres), outputs.predicted == labels, np.full(len(labels), f"{name} {severity}")

    values, correct, names = zip(*each(), strict=True)
    return np.concatenate(values), np.concatenate(correct), np.concatenate(names)


def _method_error(values: Floats, correct: NDArray[np.bool_], names: NDArray[np.str_]) -> NDArray[np.float64]:
    """Returns the typical error of the estimated accuracy on kinds of corruptions that were left out of the fit."""
    kinds = np.array([name.rsplit(" ", 1)[0] for name in names])
    unique = [kind for kind in np.unique(kinds) if kind]
    errors = []
    for fold in range(2):
        left_out = np.isin(kinds, unique[fold::2])
        if not left_out.any():
            continue
        fitted = accuracy.fit(values[~left_out], correct[~left_out], names[~left_out])
        for name in np.unique(names[left_out]):
            rows = names == name
            alone = np.arange(rows.sum())
            errors.append(accuracy.estimate(fitted, values[rows], alone, 0.0).accuracy - correct[rows].mean())
    # The median is not moved by the strongest corruptions, which are far from anything that a camera does for long.
    return np.array(1.4826 * np.median(np.abs(errors)) if errors else 0.0)
