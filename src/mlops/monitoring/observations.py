"""What drift detection knows about each image: features of a record of the prediction log.

Features are measured on the image (`descriptors.py`) or on the network's outputs. Frames of one physical sign are not
independent, so `clusters` finds out which records belong together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from src.mlops.monitoring.descriptors import DESCRIPTORS

Floats = NDArray[np.float32]
CAMERA = tuple(DESCRIPTORS)  # features of the image alone
MODEL = {
    "doubt": "logarithm of the probability that the class is wrong, by the calibrated softmax",
    "energy": "energy score of the network, higher for images that look like no known class",
    "activation": "mean of the embedding",
    "distance": "cosine distance of the embedding to the mean of the predicted class",
}
FEATURES = (*CAMERA, *MODEL)
_SMALLEST_DOUBT = 1e-6  # the log has six decimals of each probability


@dataclass(frozen=True)
class Observations:
    """The features of N records in the order of time.

    Attributes:
        time: Unix time, float64 [N].
        predicted: Class ids, int64 [N].
        unknown: Whether the image was reported as unknown, bool [N].
        values: One column per name in `FEATURES`, float32 [N, F].
        cluster: Number of the cluster of each record, int64 [N]; see `clusters`.
    """

    time: NDArray[np.float64]
    predicted: NDArray[np.int64]
    unknown: NDArray[np.bool_]
    values: Floats
    cluster: NDArray[np.int64]

    def __len__(self) -> int:
        """Returns the number of records."""
        return len(self.time)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Self:
        """Returns some of the records."""
        return type(self)(*(column[rows] for column in vars(self).values()))

    def column(self, name: str) -> Floats:
        """Returns the values of a feature, float32 [N]."""
        return np.asarray(self.values[:, FEATURES.index(name)])


def features(
    descriptors: Mapping[str, Floats],
    predicted: NDArray[np.int64],
    probability: Floats,
    energy: Floats,
    embedding: NDArray[np.floating],
    centres: Floats,
) -> Floats:
    """Returns the features of N images, float32 [N, F], with the columns of `FEATURES`.

    Args:
        descriptors: The result of `describe`.
        predicted: Class ids, int64 [N].
        probability: Probability of the predicted class, float [N].
        energy: float [N].
        embedding: float [N, D].
        centres: Mean embedding of each class, scaled to length 1, float32 [C, D].
    """
    activation, length, cosine = (np.empty(len(predicted), np.float32) for _ in range(3))
    for start in range(0, len(predicted), 4096):
        rows = slice(start, start + 4096)
        part = embedding[rows].astype(np.float32)
        activation[rows] = part.mean(axis=1)
        length[rows] = np.sqrt(np.einsum("ij,ij->i", part, part))
        cosine[rows] = np.einsum("ij,ij->i", part, centres[predicted[rows]])
    outputs = (
        np.log(np.maximum(1 - probability, _SMALLEST_DOUBT)),
        energy,
        activation,
        1 - cosine / np.maximum(length, 1e-9),
    )
    return np.stack([*(descriptors[name] for name in CAMERA), *outputs], axis=1).astype(np.float32)


def class_centres(embedding: NDArray[np.floating], labels: NDArray[np.int64], classes: int) -> Floats:
    """Returns the mean embedding of each class, scaled to length 1, float32 [C, D]; zero for a class without images."""
    centres = np.zeros((classes, embedding.shape[1]), np.float32)
    for label in np.unique(labels):
        mean = embedding[labels == label].astype(np.float32).mean(axis=0)
        centres[label] = mean / max(float(np.linalg.norm(mean)), 1e-9)
    return centres


def clusters(
    time: NDArray[np.float64],
    predicted: NDArray[np.int64],
    embedding: NDArray[np.floating],
    seconds: float = 2.0,
    similarity: float = 0.8,
    longest: float = 60.0,
) -> NDArray[np.int64]:
    """Finds the records that show one physical sign.

    A record belongs to the cluster of the previous record of the same predicted class if it follows within `seconds`
    and looks similar. In GTSRB, 99 % of consecutive frames of a track have a cosine similarity above 0.83, and images
    of different classes practically never.

    Args:
        time: Unix time, float64 [N], in ascending order.
        predicted: Class ids, int64 [N].
        embedding: float [N, D].
        seconds: Longest time between two frames; 0: each record is a cluster of its own.
        similarity: Lowest cosine similarity of two consecutive frames.
        longest: Longest duration of a cluster in seconds. A car can stand in front of a sign for an hour.

    Returns:
        Number of the cluster of each record, int64 [N], ascending with the first record of the clusters.
    """
    order = np.lexsort((time, predicted))  # stable: the records of a class in the order of time
    before, after = order[:-1], order[1:]
    linked = (predicted[after] == predicted[before]) & (time[after] - time[before] <= seconds) & (seconds > 0)
    near = np.flatnonzero(linked)
    for start in range(0, len(near), 4096):
        rows = near[start : start + 4096]
        first, second = (embedding[side[rows]].astype(np.float32) for side in (before, after))
        cosine = np.einsum("ij,ij->i", first, second)
        lengths = np.einsum("ij,ij->i", first, first) * np.einsum("ij,ij->i", second, second)
        linked[rows] = cosine >= similarity * np.sqrt(lengths)
    chain = np.concatenate([[0], np.cumsum(~linked)]) if len(order) else np.empty(0, np.int64)
    # Long chains are cut into pieces of `longest` seconds.
    starts = np.flatnonzero(np.diff(chain, prepend=-1))
    piece = ((time[order] - time[order][starts][chain]) // longest).astype(np.int64)
    cluster = np.empty(len(order), np.int64)
    cluster[order] = np.unique(np.stack([chain, piece]), axis=1, return_inverse=True)[1].ravel() if len(order) else 0
    _, first_row, number = np.unique(cluster, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first_row))[number].astype(np.int64)
