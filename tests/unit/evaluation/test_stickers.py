"""Stickers on signs."""

from pathlib import Path

import numpy as np
import pytest

from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.synthetic.drawing import draw_sign
from src.mlops.evaluation.stickers import (
    SHARES,
    STICKERS,
    measure_stickers,
    put_stickers,
    random_places,
    salient_places,
    sticker_versions,
)
from src.mlops.inference.classifier import Classifier, Outputs

SIDE = 48
ON_SIGN = np.hypot(*(np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2)) <= 0.4 * SIDE


@pytest.fixture
def images() -> np.ndarray:
    signs = [draw_sign(SIGNS[class_id], size=SIDE).convert("RGB") for class_id in (1, 14, 25, 33)]
    return np.stack([np.asarray(sign) for sign in signs])


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.asarray((before != after).any(axis=-1))


class TestPutStickers:
    @pytest.mark.parametrize("share", [*SHARES, 1])
    def test_covers_the_share_of_each_sign_and_nothing_else(self, share: float) -> None:
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)
        before = noise.copy()
        covered = changed(noise, put_stickers(noise, share, random_places(5, SIDE, rng), rng))
        assert (noise == before).all()
        assert not covered[:, ~ON_SIGN].any()
        assert covered[:, ON_SIGN].mean(axis=1) == pytest.approx(share, abs=0.001)

    def test_covers_the_places(self) -> None:
        white = np.full((1, SIDE, SIDE, 3), 255, np.uint8)
        places = np.array([[[24, 12], [24, 35], [12, 24]]])
        for seed in range(5):
            result = put_stickers(white, 0.1, places, np.random.default_rng(seed))
            colours = np.unique(result[0][ON_SIGN], axis=0)
            assert len(colours) <= 1 + STICKERS
            assert not (changed(white, result)[0] & (np.mgrid[:SIDE, :SIDE][0] > 35)).any()

    def test_stickers_hang_in_the_same_light_as_the_sign(self) -> None:
        dark = np.full((20, SIDE, SIDE, 3), 40, np.uint8)
        rng = np.random.default_rng(0)
        assert put_stickers(dark, 0.2, random_places(20, SIDE, rng), rng).max() == 40

    @pytest.mark.parametrize("share", [-0.1, 0, 1.01, 20, float("nan")])
    def test_a_share_out_of_range_is_an_error(self, images: np.ndarray, share: float) -> None:
        rng = np.random.default_rng(0)
        message = f"share of the sign .*above 0 and at most 1, but is {share!r}"
        with pytest.raises(ValueError, match=message):
            put_stickers(images, share, random_places(4, SIDE, rng), rng)
        with pytest.raises(ValueError, match=message):
            salient_places(np.zeros((1, SIDE, SIDE), np.float32), share)


class TestPlaces:
    def test_random_places_are_all_over_the_sign(self) -> None:
        places = random_places(2000, SIDE, np.random.default_rng(0)).reshape(-1, 2)
        found = np.zeros((SIDE, SIDE), bool)
        found[tuple(places.T)] = True
        assert not found[~ON_SIGN].any()
        assert found[ON_SIGN].mean() > 0.95

    def test_salient_places_are_the_highest_ones_that_are_apart(self) -> None:
        maps = np.zeros((2, SIDE, SIDE), np.float32)
        maps[0, 0, 0] = 9  # not on the sign
        maps[0, 20, 20], maps[0, 20, 22], maps[0, 30, 30], maps[0, 10, 30] = 1, 0.9, 0.8, 0.7
        maps[1, 40, 24] = 1
        places = salient_places(maps, 0.1)
        assert places[0].tolist() == [[20, 20], [30, 30], [10, 30]]
        assert places[1, 0].tolist() == [40, 24]


class TestVersions:
    def test_the_same_seed_gives_the_same_stickers(self, images: np.ndarray) -> None:
        rng = np.random.default_rng(0)
        nothing = np.zeros((4, 1), np.float32)
        evidence = rng.random((4, 43, 6, 6), np.float32)
        outputs = Outputs(rng.random((4, 43), np.float32), nothing, nothing[:, 0], evidence)
        first, second = (list(sticker_versions(images, outputs, seed=3)) for _ in range(2))
        assert [version[:2] for version in first] == [
            (how, share) for how in ("random", "saliency") for share in SHARES
        ]
        for one, other in zip(first, second, strict=True):
            assert (one[2] == other[2]).all()
        areas = [changed(images, covered).mean() for _, _, covered in first]
        assert areas[0] < areas[1] < areas[2]
        assert not (first[0][2] == next(sticker_versions(images, outputs, seed=4))[2]).all()

    def test_only_random_places_without_evidence(self, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        classifier = Classifier.load(exported)
        run = classifier.run
        monkeypatch.setattr(classifier, "run", lambda images: run(images)._replace(evidence=None))
        images = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), np.uint8)
        rows = measure_stickers(classifier, images, np.zeros(3, np.int64))
        assert [row["placement"] for row in rows] == ["none", *["random"] * len(SHARES)]


class TestMeasurement:
    def test_counts_wrong_and_unknown_images(self, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        classifier = Classifier.load(exported)
        calibration = classifier.info.calibration
        threshold = calibration.unknown_threshold * calibration.temperature  # of the energy, for certain predictions
        images = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), np.uint8)
        probabilities = np.eye(43, dtype=np.float32)[[0, 1, 2, 3]]
        energy = np.array([-1, -1, 1, 1], np.float32) + np.float32(threshold)
        outputs = classifier.run(images)._replace(probabilities=probabilities, energy=energy)
        monkeypatch.setattr(classifier, "run", lambda _: outputs)
        rows = measure_stickers(classifier, images, np.array([0, 9, 2, 9]))
        assert len(rows) == 1 + 2 * len(SHARES)
        for row in rows:
            assert (row["accuracy"], row["called_unknown"], row["wrong_not_unknown"]) == (0.5, 0.5, 0.25)
