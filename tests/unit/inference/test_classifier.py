"""The classifier gives the same predictions for all kinds of files and inputs, and in all threads."""

import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.mlops.errors import ImageError
from src.mlops.inference.classifier import Classifier
from tests.helpers.images import encode, make_image

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


def test_torch_and_onnx_agree(exported: Path) -> None:
    images = np.stack([np.asarray(make_image(number % 9, number, side=24)) for number in range(32)])
    ours, theirs = (Classifier.load(exported.with_suffix(suffix)).run(images) for suffix in (".pth", ".onnx"))
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-4)
    assert (ours.probabilities.argmax(axis=1) == theirs.probabilities.argmax(axis=1)).all()
