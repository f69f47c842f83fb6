"""Parity of torch, ONNX, batch prediction, HTTP and BentoML. The services are real processes."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from src.mlops.config import Config
from src.mlops.errors import DataError, ParityError
from src.mlops.evaluation.parity import BENTO, parity
from src.mlops.inference.classifier import Classifier
from src.mlops.io.service_process import running
from src.mlops.modelfile.checkpoint import read_plain, write_content
from src.mlops.modelfile.metadata import TOLERANCE
from src.mlops.modelfile.onnx_export import export
from src.mlops.preprocessing import WEB_FORMATS
from tests.helpers.images import encode, make_image
from tests.helpers.tiny import quick_config, tiny_overrides

needs_bento = pytest.mark.skipif(
    importlib.util.find_spec("bentoml") is None, reason="the group bento is not installed: uv sync --group bento"
)


def config_of(trained: Path, *overrides: str) -> Config:
    return quick_config([*tiny_overrides(trained, trained / "raw"), *overrides])


@pytest.mark.slow
def test_all_interfaces_agree(trained: Path, exported: Path) -> None:
    found = parity(config_of(trained))
    installed = {"BentoML"} if importlib.util.find_spec("bentoml") else set()
    assert {"ONNX", "batch prediction", "HTTP"} | installed <= set(found)
    assert all(classes == 0 and gap <= 1e-4 for classes, gap in found.values())


def test_another_model_is_detected(
    trained: Path, exported: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.mlops.evaluation.parity._over_http", lambda *_: [])
    content = read_plain(checkpoint)
    content["state_dict"]["head.bias"][3] += 5
    write_content(tmp_path / "best_model.pth", content)
    other = export(tmp_path / "best_model.pth")
    (tmp_path / "swapped").mkdir()
    shutil.copy(checkpoint, tmp_path / "swapped" / "best_model.pth")
    shutil.copy(other, tmp_path / "swapped" / "best_model.onnx")
    monkeypatch.setattr("src.mlops.inference.classifier._require_same_checkpoint", lambda *_: None)
    monkeypatch.setattr("src.mlops.evaluation.parity._compare", only_onnx(trained))
    with pytest.raises(ParityError, match=rf"ONNX.*{TOLERANCE:g}.*inv model\.export"):
        parity(config_of(trained, f"ckpt_path={tmp_path / 'swapped' / 'best_model.pth'}"))


def only_onnx(_: Path) -> Callable[..., tuple[int, float]]:
    """Compares the predictions. Services that were not started have none and count as equal."""
    from src.mlops.evaluation.parity import _compare

    return lambda expected, found: _compare(expected, found) if found else (0, 0.0)


def test_packed_images_are_not_enough(trained: Path, exported: Path) -> None:
    with pytest.raises(DataError, match=r"data\.raw_dir.*null"):
        parity(config_of(trained, "data.raw_dir=null"))


@needs_bento
def test_bentoml_gives_the_predictions_of_the_classifier(exported: Path) -> None:
    png = encode(make_image(3), "PNG")
    with running(BENTO, "/readyz", {"MLOPS_MODEL": str(exported)}) as client:
        answer = client.post("/cv_model/", files={"file": ("sign.png", png)})
        assert answer.status_code == 200
        expected = Classifier.load(exported).classify([png])[0].to_dict()
        assert answer.json() == {**expected, "filename": "sign.png"}
        bad = client.post("/cv_model/", files={"file": ("sign.png", b"no image")})
        assert bad.status_code == 415
        assert all(name in bad.text for name in WEB_FORMATS)
        assert client.post("/cv_model/").status_code == 400
