"""Reads the output of batch prediction."""

from pathlib import Path

import pandas as pd


def read_rows(path: Path) -> pd.DataFrame:
    """Reads a CSV, Parquet or JSON lines file."""
    if path.suffix == ".csv":
        return pd.read_csv(path)
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_json(path, lines=True)
