"""Tests the contact sheet of prepared data."""

from pathlib import Path

import pytest

from src.mlops.config import Config
from src.mlops.data import contact_sheet
from src.mlops.errors import DataError
from tests.helpers.tiny import quick_config, tiny_overrides


def config_of(trained: Path, tmp_path: Path, *overrides: str) -> Config:
    own = [f"evaluation.reports_dir={tmp_path / 'reports'}", *overrides]
    return quick_config(tiny_overrides(trained, trained / "raw") + own)


def test_sheet_that_cannot_be_written(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"write .*data_sheet\.png: "):
        contact_sheet.main(config_of(trained, tmp_path, f"evaluation.reports_dir={tmp_path / 'file'}"))


def test_data_sheet(trained: Path, tmp_path: Path) -> None:
    contact_sheet.main(config_of(trained, tmp_path))
    assert (tmp_path / "reports/figures/data_sheet.png").stat().st_size > 10_000
