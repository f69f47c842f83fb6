"""The responses of the service. The OpenAPI document shows these classes and their docstrings."""

from dataclasses import dataclass
from typing import Any

from src.mlops.data.classes import ClassList
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.statements import statements_of
from src.mlops.inference.classifier import Classifier, Prediction
from src.mlops.monitoring.schema import FIELDS
from src.mlops.serving.settings import Settings
from src.mlops.serving.shadow_model import ShadowModel, State


def example(classes: ClassList | None = None) -> dict[str, Any]:
    """Returns an example of an answer.

    Args:
        classes: The class list of the loaded model; None if there is no model.
    """
    classes = classes or SIGNS
    is_gtsrb = classes.difference(SIGNS) is None
    first, second = (classes[14], classes[17]) if is_gtsrb else classes[:2]  # Stop and No entry
    ranked = [(first, 0.9993), (second, 0.0002)]
    return {
        "predicted_class": first.class_id,
        "class_name": first.name,
        "sign_number": first.number,
        "probability": ranked[0][1],
        "top_k": [
            {"class_id": entry.class_id, "class_name": entry.name, "probability": share} for entry, share in ranked
        ],
        "prediction_set": [first.class_id],
        "is_unknown": False,
        "model_version": "5f2c0a9b7d31",
        "filename": "sign.png" if is_gtsrb else "image.png",
    }


REFUSED_EXAMPLE = {
    "filename": "notes.txt",
    "error": "The file is not an image in a supported format (AVIF, …)",
    "status": 415,
}


@dataclass(frozen=True)
class Answer(Prediction):
    """A prediction and the name of the uploaded file.

    Attributes:
        filename: The file name that the client sent; empty if the image was the body.

    `sign_number` is the number of the class in a catalogue, such as `206`; null if it has none.
    """

    filename: str

    @classmethod
    def of(cls, prediction: Prediction, filename: str) -> "Answer":
        """Adds the file name to a prediction."""
        return cls(**vars(prediction), filename=filename)


@dataclass(frozen=True)
class Refused:
    """The error of one image in a batch.

    Attributes:
        filename: The file name that the client sent.
        error: The reason why the image cannot be used.
        status: The HTTP status for this image in a request of its own.
    """

    filename: str
    error: str
    status: int


@dataclass(frozen=True)
class BatchAnswer:
    """The results of a batch, in the order of the images."""

    results: list[Answer | Refused]


@dataclass(frozen=True)
class Recorded:
    """What the service stores about each image (docs/reference/prediction-log.md).

    Attributes:
        fields: The names of the stored fields; empty if predictions are not recorded.
        image_share: The share of the images that are stored, 0 (none) to 1; uncertain and unknown ones first.
        image_days: The days for which they are stored.
    """

    fields: list[str]
    image_share: float
    image_days: int

    @classmethod
    def by(cls, settings: Settings) -> "Recorded":
        """Reads the settings of the service."""
        options = settings.log_options
        share = options.image_share if options else 0.0
        return cls(list(FIELDS) if options else [], share, settings.log_image_days if share else 0)


@dataclass(frozen=True)
class ShadowAnswer:
    """The candidate that answers the same images for comparison (docs/how-to/shadow.md).

    Attributes:
        state: `answering`, `not_loaded`, or why it does not answer: it is the `same_model` as the one in service, or
            it has `other_classes` or an `other_image_size`. The log has the details.
        model_version: Its version; null if it is not loaded.
    """

    state: State
    model_version: str | None

    @classmethod
    def of(cls, shadow: ShadowModel, served: Classifier) -> "ShadowAnswer":
        """Reads the state of the worker that answers."""
        state, candidate = shadow.state(served.version, served.info.classes, served.image_size)
        return cls(state, candidate.version if candidate else None)


@dataclass(frozen=True)
class ModelAnswer:
    """Facts about the loaded model.

    Attributes:
        model_version: The first twelve digits of the model file's SHA-256.
        intended_use: The intended use and its limits.
        architecture: The settings of the network.
        image_size: Height and width of the network's input in px.
        classes: The class list: id, name, and number, shape and mirrored class where they are known.
        metrics: The metrics from training.
        calibration: Temperature, thresholds, and the requested and the attained coverage of prediction sets.
        provenance: Commit, time, versions, fingerprint of the data, seed.
        recorded: What the service stores about each image.
        shadow: The candidate that is compared with the model; null if there is none.
    """

    model_version: str
    intended_use: str
    architecture: dict[str, Any]
    image_size: int
    classes: list[dict[str, Any]]
    metrics: dict[str, float]
    calibration: dict[str, float]
    provenance: dict[str, Any]
    recorded: Recorded
    shadow: ShadowAnswer | None

    @classmethod
    def of(cls, classifier: Classifier, settings: Settings, shadow: ShadowModel | None) -> "ModelAnswer":
        """Reads the facts of a model. Leaves out most of its configuration, which contains paths of the trainer."""
        info = classifier.info
        return cls(
            model_version=classifier.version,
            intended_use=statements_of(info.classes, drawn=info.drawn_classes).intended_use,
            architecture=info.config["model"],
            image_size=classifier.image_size,
            classes=info.classes.to_dicts(),
            metrics=info.metrics,
            calibration=info.calibration.to_dict(),
            provenance={key: value for key, value in info.provenance.items() if key != "image_sketch"},  # 16 kB
            recorded=Recorded.by(settings),
            shadow=ShadowAnswer.of(shadow, classifier) if shadow else None,
        )


@dataclass(frozen=True)
class Health:
    """The state of the service, and the version of its model if one is loaded."""

    status: str
    model_version: str | None = None


@dataclass(frozen=True)
class FeedbackAnswer:
    """What was stored about an image.

    Attributes:
        label_id: The ID of the label.
        true_class: The ID of the class; null: none of the classes.
        class_name: Its name.
        predicted_class: The ID of the class that the service had answered.
        contradicts: What the label before said, if it was different; it remains in the history.
        is_new: Whether a label was stored; false if the same one was there already.
    """

    label_id: str
    true_class: int | None
    class_name: str | None
    predicted_class: int
    contradicts: str | None
    is_new: bool


@dataclass(frozen=True)
class ReviewImage:
    """A recorded image to label; docs/reference/prediction-log.md explains the fields of its record.

    Attributes:
        label_id: The last decision about it, which the review must name as `expected`; null if there is none.
        feedback: The class that clients have named; null if there is no feedback.
    """

    record_id: str
    time: str
    request_id: str
    image_number: int
    predicted_class: int
    probability: float
    prediction_set: list[int]
    is_unknown: bool
    has_image: bool
    label_id: str | None
    feedback: str | None


@dataclass(frozen=True)
class ReviewQueue:
    """The images to label next.

    Attributes:
        images: At most 20, unknown and least certain ones first.
        labelled: Number of images that reviewers have labelled in the searched days.
        waiting: Number of images that they have not.
        classes: The class list of the model: ID, name and number.
        unreadable_days: Days whose compacted records the service cannot read, because it has no pyarrow.
    """

    images: list[ReviewImage]
    labelled: int
    waiting: int
    classes: list[dict[str, Any]]
    unreadable_days: list[str]


@dataclass(frozen=True)
class ReviewLabel:
    """The ID of a label, and whether it was stored now; false if the same one was there already."""

    label_id: str
    is_new: bool
