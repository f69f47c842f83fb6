"""The metrics file of a training."""

import json
from collections.abc import Callable
from pathlib import Path

from src.mlops.config import Config
from src.mlops.training.tracking import start_tracking


class TestTracking:
    def test_resumed_csv_has_no_duplicate_line(self, make_config: Callable[..., Config], tmp_path: Path) -> None:
        config = make_config()
        rows = [{"epoch": float(epoch), "val_loss": 1 / epoch} for epoch in (1, 2)]
        tracker = start_tracking(tmp_path, config, [])
        for row in rows:
            tracker.log(row)
        start_tracking(tmp_path, config, rows[:1])
        assert (tmp_path / "metrics.csv").read_text().splitlines() == ["epoch,val_loss", "1.0,1.0"]
        assert json.loads((tmp_path / "config.json").read_text()) == config.to_dict()
