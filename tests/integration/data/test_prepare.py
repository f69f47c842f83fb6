"""Tests preparations that take long."""

from pathlib import Path

import pandas as pd
import pytest

from src.mlops.data.prepare import prepare
from src.mlops.errors import DataError
from tests.helpers.tiny import quick_config


def test_thousands_of_missing_files_are_reported_together(tmp_path: Path) -> None:
    columns = {"Width": 30, "Height": 30, "Roi.X1": 3, "Roi.Y1": 3, "Roi.X2": 27, "Roi.Y2": 27, "ClassId": 0}
    for name, count in (("Train", 20_000), ("Test", 20_000)):  # comparing every pair would be 400 million comparisons
        rows = pd.DataFrame([columns]).loc[[0] * count]
        rows.assign(Path=[f"{name}/0/{n}.png" for n in range(count)]).to_csv(tmp_path / f"{name}.csv", index=False)
    config = quick_config([f"data.raw_dir={tmp_path}", f"data.processed_dir={tmp_path / 'p'}", "data.image_size=24"])
    with pytest.raises(DataError, match="40000 bad image"):
        prepare(config.data)
