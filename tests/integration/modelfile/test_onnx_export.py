"""Exports of other networks, quantised exports, and the export at the end of a training."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from src.mlops.config import Config
from src.mlops.errors import CheckpointError
from src.mlops.inference.classifier import Classifier
from src.mlops.model import EfficientNetLite0, Network, SignNet, TinyCNN
from src.mlops.modelfile.checkpoint import read_plain, write_content
from src.mlops.modelfile.metadata import FP16_TOLERANCE
from src.mlops.modelfile.onnx_export import export
from src.mlops.training.train import train


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (9, 24, 24, 3), np.uint8)


SLOW_WITH_OPSET = pytest.param(EfficientNetLite0(43, weights=None), 20, marks=pytest.mark.slow)
SLOW = pytest.param(EfficientNetLite0(43, weights=None), marks=pytest.mark.slow)


@pytest.mark.parametrize("model", [TinyCNN(43), SLOW])
def test_other_networks_export_too(
    checkpoint: Path, tmp_path: Path, images: np.ndarray, model: TinyCNN | EfficientNetLite0
) -> None:
    content = read_plain(checkpoint)
    target = f"src.mlops.model.{type(model).__name__}"
    arguments = {"weights": None} if isinstance(model, EfficientNetLite0) else {}
    content["config"]["model"] = {"_target_": target, **arguments}
    write_content(tmp_path / "other.pth", content | {"state_dict": model.state_dict()})
    file = export(tmp_path / "other.pth")
    found = Classifier.load(file).run(images)
    expected = Classifier.load(tmp_path / "other.pth").run(images)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
    assert (found.evidence is None) == isinstance(model, TinyCNN)


@pytest.mark.slow
def test_int8_is_small_and_close(checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # At this width, most of the file are weights, not metadata.
    content = read_plain(checkpoint)
    content["config"]["model"] = {"_target_": "src.mlops.model.SignNet", "width": 24}
    write_content(tmp_path / "wide.pth", content | {"state_dict": SignNet(43, 24).state_dict()})
    images = np.random.default_rng(2).integers(0, 256, (128, 24, 24, 3), np.uint8)
    whole, small = export(tmp_path / "wide.pth"), export(tmp_path / "wide.pth", images)
    assert small.name == "wide.int8.onnx"
    assert small.stat().st_size < whole.stat().st_size / 3.5
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []
    found, expected = Classifier.load(small).run(images), Classifier.load(whole).run(images)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=0.05)


@pytest.mark.parametrize(
    ("model", "opset"), [(SignNet(43, 24), 18), pytest.param(TinyCNN(43), 23, marks=pytest.mark.slow), SLOW_WITH_OPSET]
)
def test_float16_is_half_the_size_and_close(
    checkpoint: Path,
    tmp_path: Path,
    model: Network,
    opset: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    content = read_plain(checkpoint)
    content["config"]["model"] = {"_target_": f"src.mlops.model.{type(model).__name__}"}
    write_content(tmp_path / "wide.pth", content | {"state_dict": model.state_dict()})
    file = export(tmp_path / "wide.pth", fp16=True, opset=opset)
    assert file.name == "wide.fp16.onnx"
    assert file.stat().st_size < (tmp_path / "wide.pth").stat().st_size / 1.8
    assert onnx.load(file).opset_import[0].version == opset
    images = np.random.default_rng(2).integers(0, 256, (32, 24, 24, 3), np.uint8)
    found, expected = Classifier.load(file).run(images), Classifier.load(tmp_path / "wide.pth").run(images)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=FP16_TOLERANCE)
    np.testing.assert_allclose(found.energy, expected.energy, atol=0.05)
    assert {output.dtype for output in found if output is not None} == {np.dtype(np.float32)}
    assert "[W:onnxruntime" not in capfd.readouterr().err


def test_training_and_export_use_the_configured_opset(make_config: Callable[..., Config], tmp_path: Path) -> None:
    train(make_config("training.export=true", "training.epochs=1", "export.opset=21"))
    assert onnx.load(tmp_path / "latest/best_model.onnx").opset_import[0].version == 21


def test_training_exports_a_model_that_can_be_served(make_config: Callable[..., Config], tmp_path: Path) -> None:
    train(make_config("training.export=true", "training.epochs=1"))
    assert Classifier.load(tmp_path / "latest/best_model.onnx").info.metrics["epoch"] == 1


def test_nothing_is_overwritten_if_a_write_fails(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint, tmp_path / "best_model.pth")
    (tmp_path / "best_model.onnx").mkdir()
    with pytest.raises(CheckpointError, match=r"best_model\.onnx"):
        export(tmp_path / "best_model.pth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best_model.onnx", "best_model.pth"]
    assert (tmp_path / "best_model.onnx").is_dir()
