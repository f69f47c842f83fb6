"""Scores for the detection of unknown images, and how well they separate unknown images from known ones.

All scores are computed from the outputs of one exported model. A higher score means that an image looks less like a
known class:

- `unknown score`, which the service uses: `Calibration.unknown_scores`, with the weight that the model stores.
- `energy` (Liu et al., "Energy-based Out-of-distribution Detection", 2020).
- `MSP`: one minus the maximum softmax probability (Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and
  Out-of-Distribution Examples in Neural Networks", 2017).
- `Mahalanobis`: squared distance of the embedding to the nearest class mean, with one covariance for all classes (Lee
  et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", 2018).
- `nearest neighbours`: cosine distance of the embedding to the k-th nearest one of a bank (Sun et al.,
  "Out-of-Distribution Detection with Deep Nearest Neighbors", 2022). k is 10 for 10,000 images, the share of the paper
  for CIFAR (50 of 50,000).
- `norm`: the length of the embedding, negated; networks react more strongly to what they know.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import roc_auc_score

from benchmarks.environment import Row
from src.mlops.config import Config
from src.mlops.data.packing import SplitArrays, select, without
from src.mlops.data.prepare import prepare
from src.mlops.errors import DataError
from src.mlops.inference.classifier import Classifier, Outputs
from src.mlops.modelfile.calibration import Calibration
from src.mlops.modelfile.unknown import fit_threshold

BANK = 10_000  # training images for the means, the covariance and the nearest neighbours
NEIGHBOURS = 10
FALSE_ALARMS = 0.01  # share of the validation images above each threshold
_BATCH = 256

Pixels = NDArray[np.uint8]
Values = NDArray[np.floating]
Scores = dict[str, Values]


class Scorer:
    """Computes all scores.

    Args:
        outputs: Outputs of the model for training images.
        labels: Their classes, int64 [N].
        calibration: That of the model.
    """

    def __init__(self, outputs: Outputs, labels: NDArray[np.int64], calibration: Calibration) -> None:
        self._calibration = calibration
        embedding = outputs.embedding.astype(np.float64)
        classes, places = np.unique(labels, return_inverse=True)
        self._means = np.stack([embedding[labels == one].mean(axis=0) for one in classes])
        centred = embedding - self._means[places]
        self._precision = EmpiricalCovariance(assume_centered=True).fit(centred).precision_
        self._bank = _normalised(outputs.embedding)

    def __call__(self, outputs: Outputs) -> Scores:
        """Returns the scores of N images by name, float [N] each."""
        return {
            "unknown score": self._calibration.unknown_scores(outputs.probabilities, outputs.energy),
            "energy": outputs.energy,
            "MSP": 1 - outputs.probabilities.max(axis=1),
            "Mahalanobis": self._mahalanobis(outputs.embedding.astype(np.float64)),
            "nearest neighbours": self._neighbours(_normalised(outputs.embedding)),
            "norm": -np.linalg.norm(outputs.embedding, axis=1),
        }

    def _mahalanobis(self, embedding: Values) -> Values:
        distances = [
            np.einsum("ni,ij,nj->n", apart, self._precision, apart, optimize=True)
            for apart in (embedding - mean for mean in self._means)
        ]
        return np.asarray(np.min(distances, axis=0))

    def _neighbours(self, embedding: Values) -> Values:
        place = len(self._bank) - min(NEIGHBOURS, len(self._bank))  # of the k-th largest similarity
        parts = [
            1 - np.partition(embedding[start : start + _BATCH] @ self._bank.T, place, axis=1)[:, place]
            for start in range(0, len(embedding), _BATCH)
        ]
        return np.concatenate(parts)


def auroc(known: Values, unknown: Values) -> float:
    """Returns the probability that an unknown image has a higher score than a known one; ties count half.

    Args:
        known: Scores of known images, float [N].
        unknown: Scores of unknown images, float [M].
    """
    return float(roc_auc_score(np.repeat([0, 1], [len(known), len(unknown)]), np.concatenate([known, unknown])))


def fpr95(known: Values, unknown: Values) -> float:
    """Returns the share of unknown images that are accepted when 95 % of the known images are.

    An image is accepted if its score is at most the lowest threshold that accepts at least 95 % of the known images. As
    in most papers on the subject, the "positives" of this rate are the known images.

    Args:
        known: Scores of known images, float [N].
        unknown: Scores of unknown images, float [M].
    """
    return float((unknown <= np.quantile(known, 0.95, method="inverted_cdf")).mean())


class Detection:
    """The detection of unknown images by one model: its scores, their thresholds, and the known images.

    Args:
        config: Location of the data and of the model, which is the export next to `ckpt_path`.
        threads: Threads of the runtime.

    Attributes:
        classifier: The model.
        left_out: Classes that it was trained without. None of the known images shows them.
        test: All test images, also of these classes.

    Raises:
        CheckpointError: There is no such model.
        DataError: The model was trained on the validation images, or does not fit the data.
    """

    def __init__(self, config: Config, threads: int = 1) -> None:
        self.classifier = Classifier.load(config.ckpt_path.with_suffix(".onnx"), threads)
        if self.classifier.info.saw_validation:
            raise DataError(
                f"{config.ckpt_path} is a final-fit model, so it was also trained on the validation images that the "
                "thresholds need. Set ckpt_path to best_model.pth in its run folder."
            )
        pack = prepare(config.data)
        pack.require_fit(self.classifier.image_size, self.classifier.info.classes)
        self.left_out: list[int] = self.classifier.info.config["training"].get("leave_out", [])
        training = without(pack.load("train"), self.left_out)
        sample = np.random.default_rng(0).permutation(len(training.rows))[:BANK]
        bank = select(training, np.sort(sample))
        self._scorer = Scorer(self._run(images_of(bank)), bank.labels, self.classifier.info.calibration)
        self.test = pack.load("test")
        validation = self.scores(images_of(without(pack.load("val"), self.left_out)))
        self._thresholds = {
            name: fit_threshold(values.astype(np.float64), FALSE_ALARMS) for name, values in validation.items()
        }
        self._known = self.scores(images_of(without(self.test, self.left_out)))

    def scores(self, images: Pixels) -> Scores:
        """Returns the scores of preprocessed images, uint8 [N, S, S, 3], by name."""
        return self._scorer(self._run(images))

    def rows(self, unknown: Scores) -> Iterable[Row]:
        """Yields the results of each score for unknown images.

        `called_unknown` is the share of these images above the threshold that `FALSE_ALARMS` of the validation images
        exceed, and `known_called_unknown` the same for the known test images. `auroc` and `fpr95` compare the images
        with the known test images.
        """
        for name, threshold in self._thresholds.items():
            yield {
                "score": name,
                "images": len(unknown[name]),
                "auroc": round(auroc(self._known[name], unknown[name]), 5),
                "fpr95": round(fpr95(self._known[name], unknown[name]), 5),
                "called_unknown": round(float((unknown[name] > threshold).mean()), 5),
                "known_called_unknown": round(float((self._known[name] > threshold).mean()), 5),
            }

    def _run(self, images: Pixels) -> Outputs:
        parts = [self.classifier.run(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
        names = ("probabilities", "embedding", "energy")
        return Outputs(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def images_of(arrays: SplitArrays) -> Pixels:
    """Returns the images, uint8 [N, S, S, 3]."""
    return arrays.images[arrays.rows]


def _normalised(embedding: Values) -> Values:
    return np.asarray(embedding / np.linalg.norm(embedding, axis=1, keepdims=True).clip(1e-9))
