"""A model file → a `Classifier` that answers for images. Training's preprocessing, and nothing else of training."""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from src.mlops.calibration import Calibration
from src.mlops.data.signs import SIGNS
from src.mlops.preprocessing import open_image, preprocess

DEFAULT_MODEL = Path("models/latest/best_model.pth")  # below the repository; training's ckpt_path in config.yaml
TOP_K = 5


@dataclass(frozen=True)
class ClassProbability:
    """One line of a ranking."""

    class_id: int
    class_name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        predicted_class: Most probable class, 0 to 42.
        class_name: Its English name.
        probability: Its calibrated probability, 0 to 1.
        top_k: The most probable classes, best first.
        prediction_set: Classes that cannot be ruled out; holds the true one for 99.9 % of signs like those that the
            model was validated on.
        is_unknown: True where the picture does not look like any known sign; the class is then not to be trusted.
        model_version: First twelve digits of the model file's SHA-256.
    """

    predicted_class: int
    class_name: str
    probability: float
    top_k: list[ClassProbability]
    prediction_set: list[int]
    is_unknown: bool
    model_version: str

    def to_dict(self) -> dict[str, Any]:
        """Returns nested plain values, as JSON carries them."""
        return asdict(self)


class Classifier:
    """Classifies images with a trained model. Safe to share between threads.

    Use `Classifier.load`.
    """

    def __init__(self, model: Any, image_size: int, calibration: Calibration, version: str) -> None:
        self._model = model
        self._calibration = calibration
        self._lock = threading.Lock()
        self.image_size = image_size
        self.version = version

    @classmethod
    def load(cls, path: Path) -> Self:
        """Loads a checkpoint.

        Args:
            path: A `best_model.pth`.

        Raises:
            CheckpointError: The file is absent, damaged, hostile, or of another format.
        """
        from src.mlops.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(path)
        with path.open("rb") as file:
            version = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        return cls(checkpoint.model, checkpoint.image_size, checkpoint.calibration, version)

    def classify(self, images: Sequence[bytes | Path | Image.Image]) -> list[Prediction]:
        """Classifies encoded bytes, files or open images, in order.

        Raises:
            ImageError: An image cannot be used; the message says why.
        """
        if not images:
            return []
        return self.classify_arrays(np.stack([preprocess(open_image(image), self.image_size) for image in images]))

    def classify_arrays(self, arrays: NDArray[np.uint8]) -> list[Prediction]:
        """Classifies preprocessed images, uint8 [N, H, W, 3]."""
        logits = self._logits(arrays)
        probabilities = self._calibration.probabilities(logits)
        unknown = self._calibration.energy(logits) > self._calibration.energy_threshold
        return [self._prediction(row, bool(flag)) for row, flag in zip(probabilities, unknown, strict=True)]

    def _logits(self, arrays: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        with self._lock, torch.inference_mode():
            logits = self._model(torch.from_numpy(arrays).permute(0, 3, 1, 2))
        return np.asarray(logits.float().numpy())

    def _prediction(self, probabilities: NDArray[np.float64], is_unknown: bool) -> Prediction:
        ranked = [
            ClassProbability(int(class_id), SIGNS[class_id].name, float(probabilities[class_id]))
            for class_id in np.argsort(-probabilities)[:TOP_K]
        ]
        best = ranked[0]
        kept = np.flatnonzero(probabilities >= self._calibration.set_threshold)
        return Prediction(
            predicted_class=best.class_id,
            class_name=best.class_name,
            probability=best.probability,
            top_k=ranked,
            prediction_set=sorted({best.class_id, *map(int, kept)}),
            is_unknown=is_unknown,
            model_version=self.version,
        )
