"""What the service answers, as its OpenAPI document describes it."""

from dataclasses import dataclass
from typing import Any

from src.mlops.data.signs import SIGNS
from src.mlops.inference import Classifier, Prediction
from src.mlops.model_info import CLASSES, INTENDED_USE

_RANKED = [
    {"class_id": 14, "class_name": "Stop", "probability": 0.9993},
    {"class_id": 17, "class_name": "No entry", "probability": 0.0002},
]
EXAMPLE = {
    "predicted_class": 14,
    "class_name": "Stop",
    "probability": 0.9993,
    "top_k": _RANKED,
    "prediction_set": [14],
    "is_unknown": False,
    "model_version": "5f2c0a9b7d31",
    "filename": "sign.png",
    "sign_number": "206",
}

REFUSED_EXAMPLE = {"filename": "notes.txt", "error": "expected a picture (BMP, …), found something else", "status": 415}


@dataclass(frozen=True)
class Answer(Prediction):
    """A prediction, the name of the uploaded file, and the sign's number in the German catalogue.

    Attributes:
        filename: As the client gave it; empty for a raw body.
        sign_number: For example `206`.
    """

    filename: str
    sign_number: str

    @classmethod
    def of(cls, prediction: Prediction, filename: str) -> "Answer":
        """Completes a prediction."""
        return cls(**vars(prediction), filename=filename, sign_number=SIGNS[prediction.predicted_class].number)


@dataclass(frozen=True)
class Refused:
    """What is wrong with one picture of several.

    Attributes:
        filename: As the client gave it.
        error: What was expected and what was found.
        status: The HTTP status that the picture would have had alone.
    """

    filename: str
    error: str
    status: int


@dataclass(frozen=True)
class BatchAnswer:
    """Answers in the order of the pictures."""

    results: list[Answer | Refused]


@dataclass(frozen=True)
class ModelAnswer:
    """What the served model says about itself.

    Attributes:
        model_version: First twelve digits of the model file's SHA-256.
        intended_use: What it is for, and what it is not.
        architecture: The model's part of its configuration.
        image_size: Side in px of the pictures that the network sees.
        classes: Id, number in the German catalogue and English name.
        metrics: Of its training.
        calibration: Temperature and thresholds.
        provenance: Commit, time, versions, fingerprint of the data, seed.
    """

    model_version: str
    intended_use: str
    architecture: dict[str, Any]
    image_size: int
    classes: list[dict[str, Any]]
    metrics: dict[str, float]
    calibration: dict[str, float]
    provenance: dict[str, Any]

    @classmethod
    def of(cls, classifier: Classifier) -> "ModelAnswer":
        """Reads a model's facts; of its configuration only the network, since the rest names the trainer's folders."""
        info = classifier.info
        return cls(
            model_version=classifier.version,
            intended_use=INTENDED_USE,
            architecture=info.config["model"],
            image_size=classifier.image_size,
            classes=CLASSES,
            metrics=info.metrics,
            calibration=info.calibration.to_dict(),
            provenance=info.provenance,
        )


@dataclass(frozen=True)
class Health:
    """Whether the service lives, or is ready and with which model."""

    status: str
    model_version: str | None = None
