"""Parity of torch, ONNX, batch prediction, HTTP and BentoML. The services are real processes."""

import importlib.util
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
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


@pytest.fixture(scope="module")
def client(exported: Path) -> Iterator[httpx.Client]:
    with running(BENTO, "/readyz", {"MLOPS_MODEL": str(exported)}) as client:
        yield client


@needs_bento
class TestBentoML:
    png = encode(make_image(3), "PNG")

    @pytest.mark.parametrize("name", ["sign.png", "ü" * 2000 + ".png", "../sign.png"])
    def test_gives_the_predictions_of_the_classifier(self, exported: Path, client: httpx.Client, name: str) -> None:
        answer = client.post("/cv_model/", files={"file": (name, self.png)})
        assert answer.status_code == 200
        expected = Classifier.load(exported).classify([self.png])[0].to_dict()
        assert answer.json() == {**expected, "filename": name}

    @pytest.mark.parametrize("content", [b"no image", b"http://127.0.0.1/sign.png"])
    def test_names_the_supported_formats(self, client: httpx.Client, content: bytes) -> None:
        answer = client.post("/cv_model/", files={"file": ("sign.png", content)})
        assert answer.status_code == 415
        assert all(name in answer.json()["detail"] for name in WEB_FORMATS)

    def test_corrupted_image(self, client: httpx.Client) -> None:
        answer = client.post("/cv_model/", files={"file": ("sign.png", self.png[:-30])})
        assert answer.status_code == 422
        assert "corrupted" in answer.json()["detail"]

    def test_part_without_a_file_name(self, client: httpx.Client) -> None:
        for content in (self.png, b"text", b""):
            is_refused(client.post("/cv_model/", files={"file": (None, content)}))

    def test_no_file(self, client: httpx.Client) -> None:
        is_refused(client.post("/cv_model/"))
        is_refused(client.post("/cv_model/", files={"image": ("sign.png", self.png)}))

    def test_a_url_is_not_fetched(self, client: httpx.Client) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(0.5)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/sign.png"
            is_refused(client.post("/cv_model/", files={"file": (None, url)}))
            is_refused(client.post("/cv_model/", data={"file": url}))
            is_refused(client.post("/cv_model/", json={"file": url}))
            is_refused(client.post("/cv_model/", content=url, headers={"Content-Type": "text/plain"}))
            with pytest.raises(TimeoutError):
                listener.accept()


def is_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 422
    assert "file" in answer.json()["detail"]
