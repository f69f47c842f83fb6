"""Files of baselines."""

from pathlib import Path

import numpy as np
import pytest

from src.mlops.errors import DataError
from src.mlops.monitoring.baseline import Baseline
from tests.helpers.traffic import baseline


class TestBaseline:
    def test_is_read_as_written(self, tmp_path: Path) -> None:
        written = baseline(300)
        written.save(tmp_path / "m.baseline.npz")
        read = Baseline.load(tmp_path / "m.baseline.npz")
        assert read.origin == written.origin
        assert read.origin.images == 300
        for name in ("predicted", "unknown", "values"):
            assert np.array_equal(getattr(read, name), getattr(written, name))

    def test_needs_enough_signs(self) -> None:
        with pytest.raises(DataError, match="at least 50 physical signs"):
            baseline(40)

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="Accept a window"):
            Baseline.load(tmp_path / "none.npz")

    @pytest.mark.parametrize("length", [0, 1, 100, 5000])
    def test_truncated_file(self, tmp_path: Path, length: int) -> None:
        path = tmp_path / "m.baseline.npz"
        baseline(300).save(path)
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(DataError, match="is corrupted"):
            Baseline.load(path)

    def test_damaged_bytes(self, tmp_path: Path) -> None:
        path = tmp_path / "m.baseline.npz"
        baseline(300).save(path)
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
        path.write_bytes(content)
        with pytest.raises(DataError, match="is corrupted"):
            Baseline.load(path)
