"""Reads the prediction log as a pandas frame. Stand-in until the prediction log is merged, with the same signature."""

import base64
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from src.mlops.errors import DataError
from src.mlops.io.files import find_files


def read_frame(url: str, start: datetime | None = None, end: datetime | None = None) -> pd.DataFrame:
    """Reads the `.jsonl` and `.jsonl.gz` files below a folder, sorted by time; see docs/monitoring.md."""
    paths = sorted(find_files(Path(url), (".jsonl", ".jsonl.gz"), [], lambda error: None))
    if not paths:
        raise DataError(f"No prediction log in {url}.")
    frame = pd.concat([pd.read_json(path, lines=True) for path in paths], ignore_index=True)
    frame["time"] = pd.to_datetime(frame["time"], utc=True)
    decoded = [np.frombuffer(base64.b64decode(text), "<f2") for text in frame["embedding"]]
    frame["embedding"] = pd.Series(decoded, index=frame.index, dtype=object)
    inside = np.ones(len(frame), bool)
    if start:
        inside &= frame["time"] >= start
    if end:
        inside &= frame["time"] < end
    return frame[inside].sort_values("time", kind="stable", ignore_index=True)
