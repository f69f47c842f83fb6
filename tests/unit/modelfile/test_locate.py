"""Model files by name."""

from pathlib import Path

import pytest

from src.mlops.modelfile import locate
from src.mlops.modelfile.locate import LATEST, locate_model


class TestLocate:
    @pytest.fixture
    def root(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(locate, "ROOT", tmp_path)
        (tmp_path / "models/latest").mkdir(parents=True)
        return tmp_path

    def test_latest_prefers_the_onnx_file(self, root: Path) -> None:
        (root / "models/latest/best_model.pth").touch()
        assert locate_model(LATEST).suffix == ".pth"
        (root / "models/latest/best_model.onnx").touch()
        assert locate_model(LATEST).suffix == ".onnx"

    def test_latest_falls_back_to_the_bundled_model_with_a_warning(
        self, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert locate_model(LATEST) == root / "models/pretrained/signnet.onnx"
        [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert "models/latest" in warning
        assert "models/pretrained/signnet.onnx" in warning

    def test_relative_paths_start_at_the_repository_root(self, root: Path) -> None:
        assert locate_model("some/model.onnx") == root / "some/model.onnx"
