"""Turns records of the prediction log into observations, and reports which records cannot be used."""

import logging
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from src.mlops.errors import DataError, listed
from src.mlops.monitoring.observations import CAMERA, Floats, Observations, clusters, features
from src.mlops.monitoring.schema import LARGEST

logger = logging.getLogger(__name__)
_NUMBERS = (*CAMERA, "probability", "energy")
NEEDED = ("time", "model_version", "class_list", "predicted_class", "is_unknown", "embedding", *_NUMBERS)


class Model(NamedTuple):
    """The model that wrote records: its version and the fingerprint of its class list."""

    version: str
    class_list: str


def observe(frame: pd.DataFrame, centres: Floats, model: Model, seconds: float) -> tuple[Observations, pd.DataFrame]:
    """Computes the features of records and groups them into clusters.

    Records of other models, and records with missing or impossible values in `NEEDED`, are left out with a warning.

    Args:
        frame: Records as `read_frame` returns them, in any order. `embedding` holds arrays, float16 [D].
        centres: Mean embedding of each class, float32 [C, D].
        model: The model to judge.
        seconds: Longest time between two frames of one physical sign; 0: all records are independent.

    Returns:
        The observations in the order of time, and their records.

    Raises:
        DataError: No record is left.
    """
    if frame.empty:
        raise DataError("The window contains no records.")
    frame = frame.reindex(columns=list(dict.fromkeys([*frame.columns, *NEEDED])))
    own = ((frame["model_version"] == model.version) & (frame["class_list"] == model.class_list)).to_numpy(bool)
    if not own.all():
        pairs = frame.loc[~own, ["model_version", "class_list"]].astype(str).drop_duplicates()
        others = [f"{version} with the class list {names}" for version, names in sorted(pairs.itertuples(index=False))]
        if not own.any():
            raise DataError(
                f"The window contains no records of the model {model.version} with the class list {model.class_list}, "
                f"but {len(frame):,} of {listed(others, 5)}. Choose the file of the model that wrote them, with "
                "`--model`, or another window."
            )
        logger.warning("Left out %d records of other models: %s", (~own).sum(), listed(others, 5))
    frame = frame[own]
    frame = frame.assign(time=_times(frame), **{name: _numbers(frame[name]) for name in (*_NUMBERS, "predicted_class")})
    frame = _usable(frame, centres, model).sort_values("time", kind="stable", ignore_index=True)  # clocks jump
    embedding = np.stack(list(frame["embedding"])).astype(np.float16, copy=False)
    time = np.asarray((frame["time"] - pd.Timestamp(0, tz="UTC")).dt.total_seconds(), np.float64)
    predicted = frame["predicted_class"].to_numpy(np.int64)
    numbers = {name: frame[name].to_numpy(np.float32) for name in _NUMBERS}
    values = features(numbers, predicted, numbers["probability"], numbers["energy"], embedding, centres)
    cluster = clusters(time, predicted, embedding, seconds)
    unknown = frame["is_unknown"].to_numpy(bool)
    return Observations(time, predicted, unknown, values, cluster), frame.drop(columns="embedding")


def _usable(frame: pd.DataFrame, centres: Floats, model: Model) -> pd.DataFrame:
    """Leaves out records with missing or impossible values, and reports which fields have them."""
    classes, length = centres.shape
    predicted = frame["predicted_class"]
    good = {
        **{name: (frame[name].abs() <= LARGEST).to_numpy() for name in _NUMBERS},
        "time": frame["time"].notna().to_numpy(),
        "probability": frame["probability"].between(0, 1).to_numpy(),
        "predicted_class": (predicted.between(0, classes - 1) & (predicted % 1 == 0)).to_numpy(),
        "is_unknown": np.array([isinstance(value, bool | np.bool_) for value in frame["is_unknown"]], bool),
        "embedding": np.array([_is_embedding(value, length) for value in frame["embedding"]], bool),
    }
    usable = np.all(list(good.values()), axis=0)
    if usable.all() and len(frame):
        return frame
    reasons = ", ".join(f"{name} ({(~fine).sum()})" for name, fine in good.items() if not fine.all())
    if not usable.any():
        raise DataError(
            f"The window contains no usable records of the model {model.version}: {len(frame)} have missing or "
            f"impossible values{f' in {reasons}' if reasons else ''}. Choose another window."
        )
    logger.warning("Left out %d records with missing or impossible values in %s", (~usable).sum(), reasons)
    return frame[usable]


def _times(frame: pd.DataFrame) -> "pd.Series[pd.Timestamp]":
    return pd.to_datetime(frame["time"], utc=True, errors="coerce")


def _numbers(column: "pd.Series[float]") -> NDArray[np.float64]:
    """Returns the numbers of a column, float64 [N]; NaN for everything else."""
    if pd.api.types.is_numeric_dtype(column):
        return np.asarray(column.to_numpy(np.float64, na_value=np.nan), np.float64)
    return np.array(
        [value if isinstance(value, int | float) and abs(value) <= LARGEST else np.nan for value in column], np.float64
    )


def _is_embedding(value: object, length: int) -> bool:
    return (
        isinstance(value, np.ndarray)
        and value.shape == (length,)
        and value.dtype == np.float16
        and bool(np.isfinite(value).all())
    )
