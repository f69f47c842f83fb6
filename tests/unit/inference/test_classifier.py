"""The classifier: the same answers from every kind of file and input, without torch, from many threads."""

import hashlib
import io
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.mlops import ROOT, inference
from src.mlops.data.camera import photograph
from src.mlops.data.drawing import draw_sign
from src.mlops.errors import ImageError
from src.mlops.inference import BOXED, LATEST, Classifier, locate_model
from tests.conftest import picture
from tests.unit.test_preprocessing import encode

PNG = encode(picture(1), "PNG")


@pytest.fixture(params=["onnx", "pth"])
def classifier(request: pytest.FixtureRequest, exported: Path) -> Classifier:
    return Classifier.load(exported.with_suffix(f".{request.param}"))


def test_bytes_files_and_open_images_are_the_same(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "sign.png").write_bytes(PNG)
    pixels = np.asarray(Image.open(io.BytesIO(PNG)).convert("RGB"))
    answers = classifier.classify([PNG, tmp_path / "sign.png", Image.open(io.BytesIO(PNG)), pixels])
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert classifier.classify([]) == []


@pytest.mark.parametrize("shape", [(30, 30), (30, 30, 4), (3, 30, 30), (2, 2, 3)])
def test_pixels_of_another_shape(classifier: Classifier, shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"expected (pixels as uint8 \[H, W, 3\]|sides of)"):
        classifier.classify([np.zeros(shape, np.uint8)])
    with pytest.raises(ImageError, match="found float64"):
        classifier.classify([np.zeros((30, 30, 3))])


def test_answers_are_consistent(classifier: Classifier) -> None:
    for answer in classifier.classify([encode(picture(n), "PNG") for n in range(4)]):
        assert answer.top_k[0].class_id == answer.predicted_class
        assert answer.predicted_class in answer.prediction_set
        probabilities = [entry.probability for entry in answer.top_k]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 <= sum(probabilities) <= 1 + 1e-6


def test_many_threads_get_the_answers_of_one(classifier: Classifier) -> None:
    pictures = [encode(picture(number % 7, seed=number), "PNG") for number in range(40)]
    expected = [classifier.classify([content])[0].probability for content in pictures]
    with ThreadPoolExecutor(8) as pool:
        found = [answer[0].probability for answer in pool.map(lambda content: classifier.classify([content]), pictures)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_torch_and_onnx_agree(exported: Path) -> None:
    images = np.stack([np.asarray(picture(number % 9, number, side=24)) for number in range(32)])
    ours, theirs = (Classifier.load(exported.with_suffix(suffix)).run(images) for suffix in (".pth", ".onnx"))
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-4)
    assert (ours.probabilities.argmax(axis=1) == theirs.probabilities.argmax(axis=1)).all()


def test_onnx_needs_no_torch(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "sign.png").write_bytes(PNG)
    code = f"""
        import sys
        for name in "torch torchvision hydra pandas sklearn scipy matplotlib onnx typer rich tenacity fsspec".split():
            sys.modules[name] = None  # importing it raises
        from pathlib import Path
        from src.mlops.api import Settings, create_app
        from src.mlops.explain import explain
        from src.mlops.inference import Classifier
        classifier = Classifier.load(Path({str(exported)!r}))
        print(classifier.classify([Path({str(tmp_path / "sign.png")!r})])[0].predicted_class)
        explain(classifier, Path({str(tmp_path / "sign.png")!r}))
        create_app(Settings(model={str(exported)!r}))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == Classifier.load(exported).classify([PNG])[0].predicted_class


def test_without_torch_a_checkpoint_says_what_to_do(checkpoint: Path) -> None:
    code = f"""
        import sys
        sys.modules["torch"] = None
        from pathlib import Path
        from src.mlops.inference import Classifier
        Classifier.load(Path({str(checkpoint)!r}))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "expected torch, to run" in result.stderr
    assert "Use the .onnx file beside it" in result.stderr


class TestLocate:
    @pytest.fixture
    def root(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(inference, "ROOT", tmp_path)
        (tmp_path / "models/latest").mkdir(parents=True)
        return tmp_path

    def test_latest_prefers_what_needs_no_torch(self, root: Path) -> None:
        (root / "models/latest/best_model.pth").touch()
        assert locate_model(LATEST).suffix == ".pth"
        (root / "models/latest/best_model.onnx").touch()
        assert locate_model(LATEST).suffix == ".onnx"

    def test_an_empty_folder_falls_back_and_says_so(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert locate_model(LATEST) == root / "models/pretrained/signnet.onnx"
        assert "models/latest is empty" in caplog.text

    def test_paths_are_below_the_repository(self, root: Path) -> None:
        assert locate_model("some/model.onnx") == root / "some/model.onnx"


class TestBoxed:
    """The model that comes with the repository."""

    FOLDER = ROOT / "models/pretrained"

    def test_is_small_and_the_one_that_its_card_describes(self) -> None:
        content = (ROOT / BOXED).read_bytes()
        assert len(content) <= 1.5e6
        assert hashlib.sha256(content).hexdigest() in (self.FOLDER / "README.md").read_text()
        assert b"/work/" not in content
        assert b"/home/" not in content

    def test_knows_signs(self) -> None:
        rng = np.random.default_rng(5)
        signs = [photograph(draw_sign(class_id), rng, 64) for class_id in range(43)]
        answers = Classifier.load(ROOT / BOXED).classify(signs)
        right = [answer.predicted_class == class_id for class_id, answer in enumerate(answers)]
        assert sum(right) >= 38

    def test_says_when_a_picture_is_no_sign(self) -> None:
        answers = Classifier.load(ROOT / BOXED).classify([Image.new("RGB", (64, 64), grey) for grey in ("grey", "red")])
        assert all(answer.is_unknown for answer in answers)
