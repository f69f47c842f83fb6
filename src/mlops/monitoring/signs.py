"""Which records show the same physical sign, for records of several models."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from src.mlops.monitoring.observations import clusters

Ints = NDArray[np.int64]
_AT_ONCE = 16  # signs of one class that several cameras can see at the same time
_SIMILARITY = 0.8  # lowest cosine similarity of two frames of one sign, see `observations.clusters`
_CHUNK = 4096


def physical_signs(frame: pd.DataFrame, classes: Ints, seconds: float) -> Ints:
    """Finds the records that show one physical sign (`observations.clusters`).

    Args:
        frame: Records as `read_frame` returns them, sorted by time.
        classes: Class of each record, predicted or true, int64 [N].
        seconds: Longest time between two frames; 0: each record is a sign of its own.

    Returns:
        Number of the sign of each record, int64 [N]. Records of different models never show the same one.
    """
    found = np.empty(len(frame), np.int64)
    time, first = _seconds(frame), 0
    for rows in _comparable(frame):
        own = clusters(time[rows], classes[rows], np.stack(list(frame["embedding"].iloc[rows])), seconds)
        found[rows] = first + own
        first += len(rows)
    return found


def connected_signs(frame: pd.DataFrame, classes: Sequence[Ints], seconds: float) -> Ints:
    """Finds the records that may show one physical sign, for groups that must never be torn apart.

    In contrast to `physical_signs`, a sign can last for any time, and several cameras can see signs of the same class
    at the same time.

    Args:
        frame: See `physical_signs`.
        classes: One or more opinions about the class of each record, int64 [N]. Two records are connected if one
            opinion gives both the same class, they follow within `seconds`, and they look similar.
        seconds: See `physical_signs`.

    Returns:
        Number of the sign of each record, int64 [N].
    """
    if frame.empty:
        return np.empty(0, np.int64)
    time = _seconds(frame)
    edges = [np.empty((2, 0), np.int64)]
    for rows in _comparable(frame):
        embedding = np.stack(list(frame["embedding"].iloc[rows]))
        for opinion in classes:
            edges += (rows[pair] for pair in _similar(time[rows], opinion[rows], embedding, seconds))
    one, other = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(len(frame), len(frame)))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _similar(
    time: NDArray[np.float64], classes: Ints, embedding: NDArray[np.float16], seconds: float
) -> Iterator[Ints]:
    """Yields pairs of records, int64 [2, P], that show the same sign."""
    order = np.lexsort((time, classes))
    for lag in range(1, _AT_ONCE + 1):
        pairs = np.stack([order[:-lag], order[lag:]])
        before, after = pairs
        near = (classes[before] == classes[after]) & (time[after] - time[before] <= seconds) & (seconds > 0)
        if not near.any():
            return
        pairs = pairs[:, near]
        for start in range(0, pairs.shape[1], _CHUNK):
            part = pairs[:, start : start + _CHUNK]
            first, second = (embedding[side].astype(np.float32) for side in part)
            cosine = np.einsum("ij,ij->i", first, second)
            lengths = np.einsum("ij,ij->i", first, first) * np.einsum("ij,ij->i", second, second)
            yield part[:, cosine >= _SIMILARITY * np.sqrt(lengths)]


def _seconds(frame: pd.DataFrame) -> NDArray[np.float64]:
    return np.asarray((frame["time"] - pd.Timestamp(0, tz="UTC")).dt.total_seconds(), np.float64)


def _comparable(frame: pd.DataFrame) -> Iterator[Ints]:
    """Yields the rows of each model, int64 [M]; those whose embedding has another length, by damage, separately."""
    keys = [frame["model_version"].to_numpy(), frame["embedding"].map(len).to_numpy()]
    for rows in frame.groupby(keys, sort=False).indices.values():
        yield np.asarray(rows, np.int64)
