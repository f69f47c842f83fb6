"""The same answer by torch, ONNX, batch prediction, HTTP and BentoML, with services that are really started."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from src.mlops.checkpoint import read_plain, write_content
from src.mlops.config import Config, load_config
from src.mlops.errors import DataError, ParityError
from src.mlops.export import export
from src.mlops.inference import Classifier
from src.mlops.parity import BENTO, parity
from src.mlops.service_process import running
from tests.conftest import picture, tiny_overrides
from tests.unit.test_preprocessing import encode

needs_bento = pytest.mark.skipif(
    importlib.util.find_spec("bentoml") is None, reason="the group bento is not installed: uv sync --group bento"
)


def config_of(trained: Path, *overrides: str) -> Config:
    return load_config([*tiny_overrides(trained, trained / "raw"), *overrides])


def test_all_ways_agree(trained: Path, exported: Path) -> None:
    found = parity(config_of(trained))
    assert {"ONNX", "batch prediction", "HTTP"} <= set(found)
    assert all(classes == 0 and gap <= 1e-4 for classes, gap in found.values())


def test_another_model_is_noticed(
    trained: Path, exported: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.mlops.parity._over_http", lambda *_: [])
    content = read_plain(checkpoint)
    content["state_dict"]["head.bias"][3] += 5
    write_content(tmp_path / "best_model.pth", content)
    other = export(tmp_path / "best_model.pth")
    (tmp_path / "swapped").mkdir()
    shutil.copy(checkpoint, tmp_path / "swapped" / "best_model.pth")
    shutil.copy(other, tmp_path / "swapped" / "best_model.onnx")
    monkeypatch.setattr("src.mlops.inference._require_same_checkpoint", lambda *_: None)
    monkeypatch.setattr("src.mlops.parity._compare", only_onnx(trained))
    with pytest.raises(ParityError, match="found others by ONNX"):
        parity(config_of(trained, f"ckpt_path={tmp_path / 'swapped' / 'best_model.pth'}"))


def only_onnx(_: Path) -> Callable[..., tuple[int, float]]:
    """Compares what was answered; the services, which are not started, count as agreeing."""
    from src.mlops.parity import _compare

    return lambda expected, found: _compare(expected, found) if found else (0, 0.0)


def test_packed_images_are_not_enough(trained: Path, exported: Path) -> None:
    with pytest.raises(DataError, match=r"expected data.raw_dir to name the pictures"):
        parity(config_of(trained, "data.raw_dir=null"))


@needs_bento
def test_bentoml_answers_like_the_classifier(exported: Path) -> None:
    png = encode(picture(3), "PNG")
    with running(BENTO, "/readyz", {"MLOPS_MODEL": str(exported)}) as client:
        answer = client.post("/cv_model/", files={"file": ("sign.png", png)})
        assert answer.status_code == 200
        expected = Classifier.load(exported).classify([png])[0].to_dict()
        assert answer.json() == {**expected, "filename": "sign.png"}
        bad = client.post("/cv_model/", files={"file": ("sign.png", b"no picture")})
        assert bad.status_code == 415
        assert "found something else" in bad.text
        assert client.post("/cv_model/").status_code == 400
