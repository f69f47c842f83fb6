"""Reads the prediction log as a pandas frame. Only jobs import this module: the service has no pandas."""

import base64
import binascii
import logging
from datetime import datetime
from itertools import islice

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from src.mlops.monitoring.read import read_records
from src.mlops.monitoring.schema import KINDS, Record

logger = logging.getLogger(__name__)
_CHUNK = 2500  # records that are dictionaries at the same time, which need ten times the memory of a frame
_TYPES = {"integer": "Int64", "number": "float64", "flag": "boolean"}
_COLUMN_TYPES = {name: _TYPES[kind] for name, kind in KINDS.items() if kind in _TYPES}


def read_frame(url: str, start: datetime | None = None, end: datetime | None = None) -> pd.DataFrame:
    """Reads records as a frame, sorted by time.

    Args:
        url: See `read_records`.
        start: See `read_records`.
        end: See `read_records`.

    Returns:
        One row per record, with the columns of docs/reference/prediction-log.md. Each value of `embedding` is float16
        [D]; stack them after selecting the rows of one model. Records whose embedding is not one are left out with a
        warning.

    Raises:
        DataError, StorageError: See `read_records`.
    """
    records = read_records(url, start, end)
    frames, damaged = [], 0
    while chunk := list(islice(records, _CHUNK)):
        decoded = [
            record | {"embedding": embedding}
            for record in chunk
            if (embedding := _decoded(record["embedding"])) is not None
        ]
        damaged += len(chunk) - len(decoded)
        frames.append(_frame(decoded))
    if damaged:
        logger.warning("Left out %d records of %s whose embedding is damaged", damaged, url)
    frame = pd.concat(frames, ignore_index=True) if frames else _frame([])
    return frame.sort_values("time", kind="stable", ignore_index=True)


def _decoded(text: str) -> NDArray[np.float16] | None:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f2")
    except (binascii.Error, ValueError):  # not base64, or an odd number of bytes
        return None


def _frame(records: list[Record]) -> pd.DataFrame:
    frame = pd.DataFrame(records, columns=list(KINDS)).astype(_COLUMN_TYPES)
    frame["time"] = pd.to_datetime(frame["time"], utc=True)
    return frame
