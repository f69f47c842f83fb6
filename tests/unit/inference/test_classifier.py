"""The classifier gives the same predictions for all kinds of files and inputs, and in all threads."""

import io
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.mlops.errors import CheckpointError, ImageError, OutOfMemoryError
from src.mlops.inference.classifier import Classifier, Outputs
from src.mlops.inference.explain import explain
from src.mlops.modelfile.metadata import ModelInfo
from tests.helpers.graphs import with_huge_copy, with_wrong_reshape
from tests.helpers.images import encode, make_image

Change = Callable[[np.ndarray], np.ndarray]
PNG = encode(make_image(1), "PNG")


@pytest.fixture(params=["onnx", "pth"])
def classifier(request: pytest.FixtureRequest, exported: Path) -> Classifier:
    return Classifier.load(exported.with_suffix(f".{request.param}"))


def test_all_kinds_of_input_give_the_same_prediction(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "sign.png").write_bytes(PNG)
    pixels = np.asarray(Image.open(io.BytesIO(PNG)).convert("RGB"))
    answers = classifier.classify([PNG, tmp_path / "sign.png", Image.open(io.BytesIO(PNG)), pixels])
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert classifier.classify([]) == []


@pytest.mark.parametrize("shape", [(30, 30), (30, 30, 4), (3, 30, 30), (2, 2, 3)])
def test_rejects_pixels_of_another_shape_or_type(classifier: Classifier, shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"2 x 2" if shape == (2, 2, 3) else re.escape(str(list(shape)))):
        classifier.classify([np.zeros(shape, np.uint8)])
    with pytest.raises(ImageError, match="float64"):
        classifier.classify([np.zeros((30, 30, 3))])


def test_predictions_are_consistent(classifier: Classifier) -> None:
    for answer in classifier.classify([encode(make_image(n), "PNG") for n in range(4)]):
        assert answer.top_k[0].class_id == answer.predicted_class
        assert answer.predicted_class in answer.prediction_set
        probabilities = [entry.probability for entry in answer.top_k]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 <= sum(probabilities) <= 1 + 1e-6


def test_many_threads_give_the_same_predictions_as_one(classifier: Classifier) -> None:
    images = [encode(make_image(number % 7, seed=number), "PNG") for number in range(40)]
    expected = [classifier.classify([content])[0].probability for content in images]
    with ThreadPoolExecutor(8) as pool:
        found = [answer[0].probability for answer in pool.map(lambda content: classifier.classify([content]), images)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_loading_a_checkpoint_keeps_the_threads_of_the_process(checkpoint: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        Classifier.load(checkpoint)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


class TestFailingModels:
    """A model that loads, but cannot classify."""

    IMAGES = np.zeros((1, 24, 24, 3), np.uint8)

    def test_wrong_reshape(self, exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        classifier = Classifier.load(with_wrong_reshape(exported, tmp_path / "wrong.onnx"))
        with pytest.raises(CheckpointError, match=r"wrong\.onnx .*'wrong_reshape' of type Reshape.*again") as caught:
            classifier.run(self.IMAGES)
        assert "\n" not in str(caught.value)
        assert capfd.readouterr().err == ""  # ONNX Runtime reports nothing on its own
        with pytest.raises(CheckpointError, match=r"wrong\.onnx"):
            explain(classifier, PNG)
        with pytest.raises(CheckpointError, match=r"wrong\.onnx"):
            classifier.classify([PNG])

    def test_too_little_memory(self, exported: Path, tmp_path: Path) -> None:
        classifier = Classifier.load(with_huge_copy(exported, tmp_path / "huge.onnx"))
        with pytest.raises(MemoryError, match=r"memory .*huge\.onnx") as caught:
            classifier.run(self.IMAGES)
        assert isinstance(caught.value, OutOfMemoryError)

    @pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory. Tried to allocate"), MemoryError()])
    def test_too_little_memory_in_torch(self, checkpoint: Path, error: Exception) -> None:
        with pytest.raises(OutOfMemoryError, match=r"best_model\.pth"):
            self.failing(checkpoint, error).run(self.IMAGES)

    def test_any_other_error_of_torch(self, checkpoint: Path) -> None:
        classifier = self.failing(checkpoint, RuntimeError("mat1 and mat2\nshapes " + 500 * "x"))
        with pytest.raises(
            CheckpointError, match=r"best_model\.pth .*RuntimeError: mat1 and mat2 shapes x+\. "
        ) as caught:
            classifier.run(self.IMAGES)
        assert len(str(caught.value)) < 500 + len(str(checkpoint))

    @pytest.mark.parametrize(
        ("output", "change", "message"),
        [
            ("probabilities", lambda found: found * np.nan, "NaN"),
            ("energy", lambda found: found + np.inf, "infinity"),
            ("probabilities", lambda found: found[:, :5], r"probabilities .*\[1, 5\]"),
            ("energy", lambda found: np.repeat(found, 2), r"energy .*\[2\]"),
            ("evidence", lambda found: found[:, :, 0], r"evidence .*\[1, 43, \d\]"),
        ],
    )
    def test_unusable_outputs(self, exported: Path, output: str, change: Change, message: str) -> None:
        classifier = Classifier.load(exported)
        outputs = classifier.run(self.IMAGES)
        found = outputs._replace(**{output: change(getattr(outputs, output))})
        failing = Classifier(Fixed(classifier.info, found), "version", exported)
        with pytest.raises(CheckpointError, match=rf"best_model\.onnx .*{message}"):
            failing.run(self.IMAGES)

    def test_unusable_evidence(self, exported: Path) -> None:
        classifier = Classifier.load(exported)
        outputs = classifier.run(self.IMAGES)
        assert outputs.evidence is not None
        found = outputs._replace(evidence=outputs.evidence * np.nan)
        with pytest.raises(CheckpointError, match=r"best_model\.onnx .*evidence"):
            explain(Classifier(Fixed(classifier.info, found), "version", exported), PNG)

    def failing(self, checkpoint: Path, error: Exception) -> Classifier:
        return Classifier(Fixed(Classifier.load(checkpoint).info, error), "version", checkpoint)


class Fixed:
    """A backend that always returns or raises the same."""

    def __init__(self, info: ModelInfo, found: Outputs | Exception) -> None:
        self.info = info
        self._found = found

    def run(self, images: np.ndarray) -> Outputs:
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


@pytest.mark.parametrize("arrays", [np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 24, 24, 3), np.float32)])
def test_rejects_arrays_that_are_not_preprocessed(classifier: Classifier, arrays: np.ndarray) -> None:
    with pytest.raises(ImageError, match=re.escape(f"{arrays.dtype} {list(arrays.shape)}")):
        classifier.run(arrays)


def test_torch_and_onnx_agree(exported: Path) -> None:
    images = np.stack([np.asarray(make_image(number % 9, number, side=24)) for number in range(32)])
    ours, theirs = (Classifier.load(exported.with_suffix(suffix)).run(images) for suffix in (".pth", ".onnx"))
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-4)
    assert (ours.probabilities.argmax(axis=1) == theirs.probabilities.argmax(axis=1)).all()
