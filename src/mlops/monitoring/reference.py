"""Builds the baseline that a model comes with, from labelled images that it was not trained on."""

import base64
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.mlops.data.packing import Pack, SplitArrays, without
from src.mlops.data.sketch import overlap, sketch_of_training
from src.mlops.data.splits import REFERENCE
from src.mlops.errors import DataError
from src.mlops.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from src.mlops.inference.classifier import Classifier
from src.mlops.io.progress import progress_bar
from src.mlops.modelfile.metadata import REFERENCE as REFERENCE_KEY
from src.mlops.modelfile.onnx_metadata import add_metadata
from src.mlops.monitoring import accuracy
from src.mlops.monitoring.baseline import EXPORT, FEWEST_CLUSTERS, Baseline, Knowledge, Origin
from src.mlops.monitoring.descriptors import describe
from src.mlops.monitoring.observations import Floats, Observations, class_centres, features

logger = logging.getLogger(__name__)
Pixels = NDArray[np.uint8]
PER_CORRUPTION = 1000  # images for each corruption and severity
_BATCH = 256


class Outputs(NamedTuple):
    """What the network and the descriptors say about N images."""

    predicted: NDArray[np.int64]
    probability: Floats
    energy: Floats
    is_unknown: NDArray[np.bool_]
    embedding: NDArray[np.float16]
    descriptors: dict[str, Floats]


class _Measured(NamedTuple):
    """Clean and corrupted images: features, whether they are classified correctly, corruption, physical sign."""

    values: Floats
    correct: NDArray[np.bool_]
    names: NDArray[np.str_]
    signs: NDArray[np.int64]


def run(classifier: Classifier, images: Pixels) -> Outputs:
    """Classifies and describes preprocessed images, uint8 [N, S, S, 3]."""
    parts = [classifier.run(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    probabilities = np.concatenate([part.probabilities for part in parts])
    energies = np.concatenate([part.energy for part in parts])
    return Outputs(
        probabilities.argmax(axis=1),
        probabilities.max(axis=1),
        energies,
        classifier.info.calibration.is_unknown(probabilities, energies),
        np.concatenate([part.embedding.astype(np.float16) for part in parts]),
        describe(images),
    )


def values_of(outputs: Outputs, centres: Floats) -> Floats:
    """Returns the features of images, float32 [N, F]."""
    return features(
        outputs.descriptors, outputs.predicted, outputs.probability, outputs.energy, outputs.embedding, centres
    )


def observations_of(outputs: Outputs, centres: Floats, cluster: NDArray[np.int64] | None = None) -> Observations:
    """Returns observations one second apart, each a cluster of its own unless `cluster` is given."""
    count = len(outputs.predicted)
    return Observations(
        np.arange(count, dtype=np.float64),
        outputs.predicted,
        outputs.is_unknown,
        values_of(outputs, centres),
        np.arange(count) if cluster is None else cluster,
    )


def add_reference(model: Path, pack: Pack) -> bool:
    """Adds the baseline that a model comes with to its exported file, if there are images to build it from.

    These are the reference split of the data. If the data has none, they are the validation images, unless the model
    was trained on them in a final fit.

    Args:
        model: An `.onnx` file, which is replaced.
        pack: The prepared data that the model was trained on.

    Returns:
        Whether the file now contains a reference. If not, a warning says why.
    """
    try:
        classifier = Classifier.load(model, threads=os.cpu_count() or 1)
        arrays = _held_out(pack, classifier)
        tracks = pack.index()["track_id"].to_numpy()[arrays.rows]
        images = arrays.images[arrays.rows]
        reference = build_reference(classifier, images, arrays.labels, np.unique(tracks, return_inverse=True)[1])
    except DataError as error:
        logger.warning("%s contains no reference for drift detection. %s", model.name, error)
        return False
    add_metadata(model, REFERENCE_KEY, base64.b64encode(reference.to_bytes()).decode())
    return True


def build_reference(
    classifier: Classifier, images: Pixels, labels: NDArray[np.int64], tracks: NDArray[np.int64]
) -> Baseline:
    """Builds the baseline of a model.

    Args:
        classifier: The exported model.
        images: Images of a split that the model was not trained on, uint8 [N, S, S, 3].
        labels: Their classes, int64 [N].
        tracks: Number of the physical sign of each image, int64 [N].

    Raises:
        DataError: There are too few physical signs.
    """
    if (signs := len(np.unique(tracks))) < FEWEST_CLUSTERS:
        raise DataError(f"There are held-out images of only {signs} physical signs; {FEWEST_CLUSTERS} are needed.")
    classes = classifier.info.classes
    outputs = run(classifier, images)
    centres = class_centres(outputs.embedding, labels, len(classes))
    confusion = np.zeros((len(classes), len(classes)), np.float32)
    np.add.at(confusion, (labels, outputs.predicted), 1)
    confusion += np.eye(len(classes), dtype=np.float32)  # classes that are missing or rare
    confusion /= confusion.sum(axis=1, keepdims=True)
    measured = _corrupted(classifier, images, labels, tracks, outputs, centres)
    knowledge = Knowledge(centres, confusion, *accuracy.fit(*measured), _method_error(measured))
    origin = Origin(
        name="reference",
        created=str(classifier.info.provenance.get("created", "")),
        author=EXPORT,
        source=f"{len(images):,} held-out images of the training data",
        model_version=classifier.version,
        class_list=classes.fingerprint,
        classes=list(classes.names),
        images=len(images),
    )
    observations = observations_of(outputs, centres, tracks)
    return Baseline.of(observations, origin, knowledge)


def _held_out(pack: Pack, classifier: Classifier) -> SplitArrays:
    """Returns images that the model was not trained on.

    Raises:
        DataError: There are none, or the data does not fit the model.
    """
    info = classifier.info
    pack.require_fit(info.image_size, info.classes)
    splits = set(pack.index()["split"])
    if REFERENCE not in splits and info.saw_validation:
        raise DataError(
            f"The data in {pack.directory} has no reference split, and the validation images were used for the final "
            "fit. Train with training.final_fit=false, or use more data."
        )
    arrays = without(
        pack.load(REFERENCE if REFERENCE in splits else "val"), info.config["training"].get("leave_out", [])
    )
    trained_on = sketch_of_training(info.provenance, pack)
    if trained_on is None or overlap(trained_on, arrays.hashes).is_large:
        raise DataError(
            f"The model may have been trained on the images that the data in {pack.directory} holds out. Use the data "
            "that it was trained on."
        )
    return arrays


def _corrupted(
    classifier: Classifier,
    images: Pixels,
    labels: NDArray[np.int64],
    tracks: NDArray[np.int64],
    clean: Outputs,
    centres: Floats,
) -> _Measured:
    """Classifies clean and corrupted images."""
    kinds = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]

    def each() -> Iterator[_Measured]:
        yield _Measured(values_of(clean, centres), clean.predicted == labels, np.full(len(labels), ""), tracks)
        with progress_bar("measuring the model on corrupted images", len(kinds)) as bar:
            for place, (name, severity) in enumerate(kinds):
                rows = np.random.default_rng(place).permutation(len(images))[:PER_CORRUPTION]
                outputs = run(classifier, corrupt(images[rows], name, severity))
                correct = outputs.predicted == labels[rows]
                names = np.full(len(rows), f"{name} {severity}")
                yield _Measured(values_of(outputs, centres), correct, names, tracks[rows])
                bar.update()

    return _Measured(*map(np.concatenate, zip(*each(), strict=True)))


def _method_error(measured: _Measured) -> NDArray[np.float64]:
    """Returns the 95 % quantile of the relative errors of the estimated accuracy on kinds of corruptions not fitted."""
    values, correct, names, signs = measured
    kinds = np.array([name.rsplit(" ", 1)[0] for name in names])
    unique = [kind for kind in np.unique(kinds) if kind]
    errors = []
    for fold in range(2):
        left_out = np.isin(kinds, unique[fold::2])
        kept = ~left_out
        fitted = accuracy.fit(values[kept], correct[kept], names[kept], signs[kept])
        for name in np.unique(names[left_out]):
            rows = names == name
            estimated = accuracy.estimate(fitted, values[rows], signs[rows], 0.0).accuracy
            errors.append(accuracy.relative_error(estimated, float(correct[rows].mean())))
    return np.array(np.quantile(errors, 0.95))
