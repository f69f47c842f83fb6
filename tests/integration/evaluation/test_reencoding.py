"""Measurement of predictions on images that were encoded again as JPEG."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from src.mlops.config import Config
from src.mlops.errors import CheckpointError, DataError
from src.mlops.evaluation.parity import labelled_images_of
from src.mlops.evaluation.reencoding import QUALITIES, encoded, reencoding
from src.mlops.inference.classifier import Classifier
from tests.helpers.images import encode, make_image
from tests.helpers.tiny import quick_config, tiny_overrides


def config_of(trained: Path, *overrides: str) -> Config:
    return quick_config([*tiny_overrides(trained, trained / "raw"), *overrides])


def test_classifies_validation_images_at_their_own_resolution(
    trained: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = reencoding(config_of(trained))
    paths, labels = labelled_images_of(config_of(trained, "evaluation.split=val"))
    classifier = Classifier.load(exported)

    def classes(images: list[Path] | list[bytes]) -> NDArray[np.int64]:
        return np.array([prediction.predicted_class for prediction in classifier.classify(images)])

    unchanged = classes(paths)
    printed = capsys.readouterr().out
    assert results["images"] == len(labels) == 16
    assert results["accuracy"] == pytest.approx((unchanged == labels).mean())
    for quality in QUALITIES:
        found = classes([encode(Image.open(path), "JPEG", quality=quality) for path in paths])
        assert results["changed"][quality] == pytest.approx((found != unchanged).mean())
        assert results["encoded_accuracy"][quality] == pytest.approx((found == labels).mean())
        assert f"quality {quality}" in printed


def test_lower_quality_changes_more_pixels() -> None:
    image = make_image(3)
    errors = [np.abs(np.asarray(encoded(image, q)).astype(int) - np.asarray(image)).mean() for q in (95, *QUALITIES)]
    assert errors == sorted(errors)
    assert errors[0] > 0


def test_needs_an_export_and_the_raw_images(trained: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.onnx"):
        reencoding(config_of(trained, f"ckpt_path={tmp_path}/none.pth"))
    with pytest.raises(DataError, match=r"data\.raw_dir.*null"):
        reencoding(config_of(trained, "data.raw_dir=null"))
