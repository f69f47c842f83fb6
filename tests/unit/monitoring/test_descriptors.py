"""Descriptors of images."""

import numpy as np
import pytest

from src.mlops.evaluation.corruptions import corrupt
from src.mlops.monitoring.descriptors import DESCRIPTORS, describe


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Returns smooth random images with edges, uint8 [40, 48, 48, 3]."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(30, 220, (40, 6, 6, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    return corrupt(np.clip(coarse + rng.normal(0, 2, coarse.shape), 0, 255).astype(np.uint8), "blur", 1)


class TestDescribe:
    @pytest.mark.parametrize(
        ("corruption", "severity", "name", "way"),
        [
            ("blur", 3, "noise", -1),
            ("motion", 3, "streaks", -1),
            ("rain", 3, "streaks", 1),
            ("fog", 3, "black_level", 1),
            ("fog", 3, "saturation", -1),
            ("dark", 3, "brightness", -1),
            ("glare", 5, "overexposed", 1),
            ("noise", 1, "colour_noise", 1),
            ("JPEG", 3, "blockiness", 1),
            ("occlusion", 3, "flatness", 1),
        ],
    )
    def test_corruptions_change_the_descriptor_made_for_them(
        self, images: np.ndarray, corruption: str, severity: int, name: str, way: int
    ) -> None:
        before, after = describe(images)[name], describe(corrupt(images, corruption, severity))[name]
        assert way * np.median(after - before) > 0

    def test_does_not_depend_on_the_other_images(self, images: np.ndarray) -> None:
        together, alone = describe(images), describe(images[7:8])
        assert all(np.allclose(together[name][7], alone[name][0], rtol=1e-4, atol=1e-4) for name in DESCRIPTORS)

    @pytest.mark.parametrize("value", [0, 128, 255])
    def test_uniform_images_have_finite_descriptors(self, value: int) -> None:
        found = describe(np.full((3, 16, 16, 3), value, np.uint8))
        assert all(np.isfinite(column).all() and column.shape == (3,) for column in found.values())

    def test_no_images(self) -> None:
        assert {column.shape for column in describe(np.empty((0, 48, 48, 3), np.uint8)).values()} == {(0,)}

    @pytest.mark.parametrize("shape", [(48, 48, 3), (1, 8, 48, 3), (1, 48, 48, 4)])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="uint8"):
            describe(np.zeros(shape, np.uint8))
