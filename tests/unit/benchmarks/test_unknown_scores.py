"""Scores for unknown images, and how they are compared."""

import numpy as np
import pytest

from benchmarks.unknown_scores import Scorer, Values, auroc, fpr95
from src.mlops.inference.classifier import Outputs
from src.mlops.modelfile.calibration import Calibration


def _outputs(embedding: list[list[float]], probabilities: list[list[float]], energy: list[float]) -> Outputs:
    return Outputs(*(np.array(values, np.float32) for values in (probabilities, embedding, energy)))


def _embedded(*embedding: list[float]) -> Outputs:
    return _outputs(list(embedding), [[0.5, 0.5]] * len(embedding), [0.0] * len(embedding))


# Two classes around (0, 10) and (10, 0), which vary by 1 in the first direction and by 2 in the second.
TRAINING = _embedded([1, 10], [-1, 10], [0, 12], [0, 8], [11, 0], [9, 0], [10, 2], [10, -2])
LABELS = np.array([5, 5, 5, 5, 7, 7, 7, 7])


def _of(name: str, outputs: Outputs) -> Values:
    return Scorer(TRAINING, LABELS, Calibration(temperature=0.5))(outputs)[name]


def test_auroc() -> None:
    assert auroc(np.array([0.0, 1, 2, 3]), np.array([2.5, 4])) == pytest.approx(7 / 8)
    assert auroc(np.array([1.0, 1]), np.array([1.0])) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("unknown", "expected"), [([100.0], 0.0), ([19.0], 1.0), ([19.5], 0.0), ([0, 19, 20, 21], 0.5)]
)
def test_fpr95_accepts_what_95_percent_of_the_known_images_do_not_exceed(unknown: list[float], expected: float) -> None:
    known = np.arange(1.0, 21)  # 19 is the lowest threshold that accepts 19 of 20
    assert fpr95(known, np.array(unknown)) == expected


def test_outputs_as_scores() -> None:
    outputs = _outputs([[3, 4], [0, 1]], [[0.75, 0.25], [0.5, 0.5]], [-7, 2])
    odds = [(np.exp(-14) + 0.0075) / 0.75, (np.exp(4) + 0.015) / 0.5]
    assert _of("unknown score", outputs) == pytest.approx(np.log(odds))
    assert _of("energy", outputs).tolist() == [-7, 2]
    assert _of("MSP", outputs).tolist() == [0.25, 0.5]
    assert _of("norm", outputs).tolist() == [-5, -1]


def test_mahalanobis_distance_to_the_nearest_class() -> None:
    # Mean squares around the class means: 4 of 8 images deviate by 1 in the first direction, 4 by 2 in the second.
    assert _of("Mahalanobis", _embedded([0, 10], [2, 10], [10, 2], [10, 4])) == pytest.approx([0, 8, 2, 8])


def test_cosine_distance_to_the_nearest_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.unknown_scores.NEIGHBOURS", 2)
    # Two images of the bank lie in the direction of (0, 1), two in that of (1, 0), and none in that of (-1, 0).
    along, across, opposite = _of("nearest neighbours", _embedded([0, 3], [50, 0], [-1, 0]))
    assert (along, across) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))
    assert opposite == pytest.approx(1, abs=1e-6)


def test_fewer_training_images_than_neighbours() -> None:
    assert _of("nearest neighbours", _embedded([0, 1]))[0] == pytest.approx(1 + 2 / np.hypot(10, 2))  # to (10, -2)
