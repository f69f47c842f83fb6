"""Corruptions of images."""

import numpy as np
import pytest

from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.synthetic.drawing import draw_sign
from src.mlops.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt


class TestCorruptions:
    @pytest.fixture
    def images(self) -> np.ndarray:
        signs = [draw_sign(SIGNS[class_id], size=48).convert("RGB") for class_id in (1, 14, 25, 33)]
        return np.stack([np.asarray(sign) for sign in signs])

    @pytest.mark.parametrize("name", list(CORRUPTIONS))
    def test_grows_with_severity(self, images: np.ndarray, name: str) -> None:
        before = images.copy()
        changes = []
        for severity in SEVERITIES:
            corrupted = corrupt(images, name, severity)
            assert (corrupted.shape, corrupted.dtype) == (images.shape, np.uint8)
            changes.append(np.abs(corrupted.astype(int) - images).mean())
        assert changes[0] > 0
        assert changes[-1] > changes[0]
        assert (images == before).all()

    def test_is_deterministic(self, images: np.ndarray) -> None:
        for name in CORRUPTIONS:
            assert (corrupt(images, name, 3) == corrupt(images, name, 3)).all()
