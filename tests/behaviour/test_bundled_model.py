"""Behaviour of the bundled model: invariance, direction, minimum functionality (Ribeiro et al., "CheckList", 2020).

The limits are lower than the results for other seeds of the synthetic images and for the real validation images. Some
synthetic images are so dark, blurred or overexposed that nobody could read the sign. The model reports most of these as
unknown, so the strict limits are for the others.
"""

import hashlib
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from src.mlops import ROOT
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.prepare import prepare
from src.mlops.data.synthetic.camera import photograph
from src.mlops.data.synthetic.drawing import draw_sign
from src.mlops.inference.classifier import Classifier, Prediction
from src.mlops.modelfile.locate import BUNDLED
from tests.helpers.images import encode
from tests.helpers.tiny import GTSRB, quick_config

IntArray = NDArray[np.int64]
MIRRORS = np.array([-1 if sign.mirror is None else sign.mirror for sign in SIGNS])


class TestBundled:
    """The bundled model file."""

    FOLDER = ROOT / "models/pretrained"

    def test_is_small_and_matches_its_model_card(self) -> None:
        content = (ROOT / BUNDLED).read_bytes()
        assert len(content) <= 1.5e6
        assert hashlib.sha256(content).hexdigest() in (self.FOLDER / "README.md").read_text()
        assert b"/work/" not in content
        assert b"/home/" not in content

    def test_recognises_synthetic_signs(self) -> None:
        rng = np.random.default_rng(5)
        signs = [photograph(draw_sign(SIGNS[class_id]), rng, 64) for class_id in range(43)]
        answers = Classifier.load(ROOT / BUNDLED).classify(signs)
        right = [answer.predicted_class == class_id for class_id, answer in enumerate(answers)]
        assert sum(right) >= 38

    def test_calls_images_without_a_sign_unknown(self) -> None:
        answers = Classifier.load(ROOT / BUNDLED).classify(
            [Image.new("RGB", (64, 64), grey) for grey in ("grey", "red")]
        )
        assert all(answer.is_unknown for answer in answers)


def accuracy_by_class(answers: IntArray, labels: IntArray) -> dict[int, float]:
    return {int(label): float((answers == label)[labels == label].mean()) for label in np.unique(labels)}


LABELS = np.repeat(np.arange(len(SIGNS)), 10)  # classes of the synthetic images


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(7)
    return [photograph(draw_sign(SIGNS[label]), rng, 64) for label in LABELS]


@pytest.fixture(scope="module")
def predictions(images: list[Image.Image]) -> list[Prediction]:
    return Classifier.load(ROOT / BUNDLED).classify(images)


@pytest.fixture(scope="module")
def classify() -> Callable[[Iterable[Image.Image]], IntArray]:
    classifier = Classifier.load(ROOT / BUNDLED)
    return lambda images: np.array([answer.predicted_class for answer in classifier.classify(list(images))])


@pytest.fixture(scope="module")
def answers(predictions: list[Prediction]) -> IntArray:
    return np.array([prediction.predicted_class for prediction in predictions])


@pytest.fixture(scope="module")
def known(predictions: list[Prediction]) -> NDArray[np.bool_]:
    return np.array([not prediction.is_unknown for prediction in predictions])


def test_minimum_functionality(answers: IntArray, known: NDArray[np.bool_]) -> None:
    right = answers == LABELS
    assert right.mean() >= 0.92
    assert min(accuracy_by_class(answers, LABELS).values()) >= 0.6
    assert known.mean() >= 0.82
    assert right[known].mean() >= 0.98
    assert right[~known].mean() < 0.8  # so the images that it reports as unknown are difficult


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: ImageEnhance.Brightness(image).enhance(0.9), id="darker"),
        pytest.param(lambda image: ImageEnhance.Brightness(image).enhance(1.1), id="brighter"),
        pytest.param(lambda image: Image.open(BytesIO(encode(image, "JPEG", quality=80))), id="jpeg"),
        pytest.param(lambda image: image.resize((48, 48)), id="smaller"),
        pytest.param(lambda image: image.crop((2, 2, 62, 62)), id="cropped"),
        pytest.param(lambda image: image.rotate(5, Image.Resampling.BILINEAR), id="turned"),
    ],
)
def test_small_changes_do_not_change_the_class(
    images: list[Image.Image],
    answers: IntArray,
    known: NDArray[np.bool_],
    classify: Callable[[Iterable[Image.Image]], IntArray],
    change: Callable[[Image.Image], Image.Image],
) -> None:
    same = classify(map(change, images)) == answers
    assert same.mean() >= 0.93
    assert same[known].mean() >= 0.98


def test_mirrored_signs_have_the_mirrored_class(
    images: list[Image.Image], answers: IntArray, classify: Callable[[Iterable[Image.Image]], IntArray]
) -> None:
    partner = MIRRORS[LABELS]
    chosen = np.flatnonzero((partner >= 0) & (partner != LABELS) & (answers == LABELS))
    assert len(chosen) > 50
    assert (classify(ImageOps.mirror(images[i]) for i in chosen) == partner[chosen]).mean() >= 0.97


@pytest.mark.slow
@pytest.mark.gtsrb
@pytest.mark.timeout(600)
def test_real_validation_images(tmp_path: Path) -> None:
    classifier = Classifier.load(ROOT / BUNDLED)
    own = [f"data.raw_dir={GTSRB}", f"data.processed_dir={tmp_path}", f"data.image_size={classifier.image_size}"]
    arrays = prepare(quick_config(own).data).load("val")
    images, labels = arrays.images[arrays.rows], arrays.labels

    def classes(images: NDArray[np.uint8]) -> IntArray:
        batches = (images[start : start + 200] for start in range(0, len(images), 200))
        return np.concatenate([classifier.run(batch).probabilities.argmax(axis=1) for batch in batches])

    answers = classes(images)
    assert (answers == labels).mean() >= 0.998
    # Five of one dark "bend to the left" are wrong, although the final fit trained on them: its teachers did not.
    assert min(accuracy_by_class(answers, labels).values()) >= 0.8
    for factor in (0.9, 1.1):
        assert (classes(np.clip(images * factor, 0, 255).astype(np.uint8)) == answers).mean() >= 0.998
    partner = MIRRORS[labels]
    chosen = (partner >= 0) & (partner != labels) & (answers == labels)
    assert (classes(images[chosen][:, :, ::-1]) == partner[chosen]).mean() >= 0.99
