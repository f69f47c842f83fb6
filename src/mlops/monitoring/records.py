"""Turns records of the prediction log into observations, and reports which records cannot be used."""

import logging
from typing import NamedTuple

import numpy as np
import pandas as pd

from src.mlops.errors import DataError
from src.mlops.monitoring.observations import CAMERA, Floats, Observations, clusters, features

logger = logging.getLogger(__name__)
NEEDED = (
    "time",
    "model_version",
    "class_list",
    "predicted_class",
    "probability",
    "is_unknown",
    "energy",
    "embedding",
    *CAMERA,
)


class Model(NamedTuple):
    """The model that wrote records: its version and the fingerprint of its class list."""

    version: str
    class_list: str


def model_of(frame: pd.DataFrame) -> Model:
    """Returns the model of the newest record.

    Raises:
        DataError: There are no records, or they do not have the columns of `NEEDED`.
    """
    if missing := [name for name in NEEDED if name not in frame]:
        raise DataError(
            f"The records have no {', '.join(missing)}. They were written by another release; drift is measured on "
            "records of this one."
        )
    if frame.empty:
        raise DataError(
            "The window contains no records. Check that the prediction log is on, and choose another window."
        )
    newest = int(frame["time"].to_numpy().argmax())
    return Model(str(frame["model_version"].iloc[newest]), str(frame["class_list"].iloc[newest]))


def observe(frame: pd.DataFrame, centres: Floats, model: Model, seconds: float) -> tuple[Observations, pd.DataFrame]:
    """Computes the features of records and groups them into clusters.

    Records of other models, and records with missing or infinite values, are left out with a warning.

    Args:
        frame: Records with the columns of `NEEDED`, in any order. `embedding` holds arrays, float16 [D].
        centres: Mean embedding of each class, float32 [C, D].
        model: The model to judge.
        seconds: Longest time between two frames of one physical sign; 0: all records are independent.

    Returns:
        The observations in the order of time, and their records.

    Raises:
        DataError: No record is left.
    """
    own = (frame["model_version"] == model.version) & (frame["class_list"] == model.class_list)
    if not own.all():
        others = sorted(frame.loc[~own, "model_version"].astype(str).unique())
        logger.warning("Left out %d records of other models or class lists: %s", (~own).sum(), ", ".join(others[:5]))
    frame = frame[own]
    numbers = frame[[*CAMERA, "probability", "energy"]].to_numpy(np.float32)
    classes, length = centres.shape
    fits = np.array([getattr(value, "shape", None) == (length,) for value in frame["embedding"]], bool)
    predicted = pd.to_numeric(frame["predicted_class"], errors="coerce").fillna(-1).to_numpy(np.int64)
    usable = np.isfinite(numbers).all(axis=1) & fits & (predicted >= 0) & (predicted < classes)
    usable &= frame["time"].notna().to_numpy()
    if not usable.all():
        logger.warning("Left out %d records with missing or impossible values", (~usable).sum())
    frame = frame[usable]
    if frame.empty:
        raise DataError(f"The window contains no usable records of the model {model.version}. Choose another window.")
    frame = frame.sort_values("time", kind="stable", ignore_index=True)  # clocks jump
    numbers = frame[[*CAMERA]].to_numpy(np.float32)
    embedding = np.stack(list(frame["embedding"])).astype(np.float16, copy=False)
    time = np.asarray((frame["time"] - pd.Timestamp(0, tz="UTC")).dt.total_seconds(), np.float64)
    predicted = frame["predicted_class"].to_numpy(np.int64)
    values = features(
        dict(zip(CAMERA, numbers.T, strict=True)),
        predicted,
        frame["probability"].to_numpy(np.float32),
        frame["energy"].to_numpy(np.float32),
        embedding,
        centres,
    )
    cluster = clusters(time, predicted, embedding, seconds)
    unknown = frame["is_unknown"].to_numpy(bool)
    return Observations(time, predicted, unknown, values, cluster), frame.drop(columns="embedding")
