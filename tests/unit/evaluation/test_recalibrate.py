"""Recalibration of a trained model."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from src.mlops.config import Config
from src.mlops.data.prepare import prepare
from src.mlops.errors import DataError
from src.mlops.evaluation.recalibrate import calibrate
from src.mlops.modelfile.checkpoint import load_checkpoint, read_plain, write_content
from tests.helpers.tiny import quick_config, tiny_overrides


class TestCalibrate:
    def config(self, trained: Path, checkpoint: Path, *overrides: str) -> Config:
        return quick_config([*tiny_overrides(trained, trained / "raw"), f"ckpt_path={checkpoint}", *overrides])

    def test_changes_coverage(self, trained: Path, checkpoint: Path, tmp_path: Path) -> None:
        own = Path(shutil.copy(checkpoint, tmp_path / "best_model.pth"))
        calibrate(self.config(trained, own, "calibration.coverage=0.8"))
        assert load_checkpoint(own).calibration.coverage == 0.8

    def test_leaves_out_the_classes_of_the_training(
        self, trained: Path, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        content = read_plain(checkpoint)
        content["config"]["training"]["leave_out"] = [0, 1]
        write_content(tmp_path / "without.pth", content)
        for path in (checkpoint, tmp_path / "without.pth"):
            calibrate(self.config(trained, Path(shutil.copy(path, tmp_path / "best_model.pth"))))
        everything, known = map(int, re.findall(r"only (\d+) validation images", caplog.text))
        assert known == everything / 2  # there are four classes

    def test_rejects_a_final_fit(self, trained: Path, checkpoint: Path, tmp_path: Path) -> None:
        content = read_plain(checkpoint)
        content["provenance"]["trained_on"] = ["train", "val"]
        write_content(tmp_path / "final.pth", content)
        with pytest.raises(DataError, match=r"final\.pth.*best_model\.pth"):
            calibrate(self.config(trained, tmp_path / "final.pth"))

    def test_rejects_other_data(self, checkpoint: Path, make_config: Callable[..., Config]) -> None:
        config = make_config("data.split.seed=7", "data.split.test_size=0.5")
        pack = prepare(config.data)
        paths = f"{re.escape(str(checkpoint))}.*{re.escape(str(pack.directory))}"
        with pytest.raises(DataError, match=paths):
            calibrate(config.replace({"ckpt_path": str(checkpoint)}))
