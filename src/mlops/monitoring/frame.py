"""Reads the prediction log as a pandas frame. Only jobs import this module: the service has no pandas."""

import base64
from datetime import datetime
from itertools import islice

import numpy as np
import pandas as pd

from src.mlops.monitoring.read import read_records
from src.mlops.monitoring.record import FIELDS

_CHUNK = 10_000  # records that are dictionaries at the same time, which need ten times the memory of a frame


def read_frame(url: str, start: datetime | None = None, end: datetime | None = None) -> pd.DataFrame:
    """Reads records as a frame, sorted by time.

    Args:
        url: See `read_records`.
        start: See `read_records`.
        end: See `read_records`.

    Returns:
        One row per record, with the columns of docs/monitoring.md. Each value of `embedding` is float16 [D]; stack them
        after selecting the rows of one model.

    Raises:
        DataError, StorageError: See `read_records`.
    """
    records = read_records(url, start, end)
    frames = []
    while chunk := list(islice(records, _CHUNK)):
        for record in chunk:
            record["embedding"] = np.frombuffer(base64.b64decode(record["embedding"]), "<f2")
        frames.append(_frame(chunk))
    frame = pd.concat(frames, ignore_index=True) if frames else _frame([])
    return frame.sort_values("time", kind="stable", ignore_index=True)


def _frame(records: list[dict[str, object]]) -> pd.DataFrame:
    frame = pd.DataFrame(records, columns=list(FIELDS)).astype({"jpeg_quality": "Int64"})
    frame["time"] = pd.to_datetime(frame["time"], utc=True)
    return frame
