"""One record per classified image: its fields, and how a micro-batch becomes lines of JSON."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby, repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from src.mlops.data.classes import ClassList
from src.mlops.inference.classifier import Prediction
from src.mlops.monitoring.descriptors import DESCRIPTORS, describe
from src.mlops.monitoring.schema import SCHEMA_VERSION

_LARGEST_HALF = 65_504.0  # of float16
_RECORD_BYTES = 2_000  # memory of the Python objects of a record, roughly


class Origin(NamedTuple):
    """What is known about an image before the network runs.

    Attributes:
        request_id: ID of the request.
        arrived: `time.perf_counter()` when the image had been received.
        width: Width of the upright image in px, before preprocessing.
        height: Its height in px.
        jpeg_quality: Estimated quality of a JPEG file, 1 to 100; None for other formats.
        content: The bytes of the file; None unless images are stored.
        number: Position of the image in its request, from 0.
        image_probability: Probability with which the image is stored, 0 to 1; None unless images are stored.
    """

    request_id: str
    arrived: float
    width: int
    height: int
    jpeg_quality: int | None
    content: bytes | None
    number: int = 0
    image_probability: float | None = None


class Batch(NamedTuple):
    """A classified micro-batch of N images.

    Attributes:
        time: Unix time of the predictions.
        answered: `time.perf_counter()` at the same moment.
        classes: The class list of the model.
        arrays: The preprocessed images, uint8 [N, S, S, 3].
        embedding: float32 [N, D].
        energy: float32 [N].
        predictions: The N predictions.
        origins: Where the N images came from; empty if predictions are not recorded.
        shadow: The N predictions of the candidate that answered the same images; None if none did.
    """

    time: float
    answered: float
    classes: ClassList
    arrays: NDArray[np.uint8]
    embedding: NDArray[np.float32]
    energy: NDArray[np.float32]
    predictions: Sequence[Prediction]
    origins: Sequence[Origin]
    shadow: Sequence[Prediction] | None = None

    @property
    def nbytes(self) -> int:
        """Memory of the batch in bytes."""
        contents = sum(len(origin.content) for origin in self.origins if origin.content)
        return self.arrays.nbytes + self.embedding.nbytes + contents + _RECORD_BYTES * len(self.predictions)


def json_lines(batches: Sequence[Batch], record_ids: Iterable[str], images: Iterable[str | None]) -> bytes:
    """Returns the records of batches as JSON Lines.

    Args:
        batches: The batches.
        record_ids: The ID of each record.
        images: Name of the stored image of each record; None if it is not stored.
    """
    own = zip(record_ids, images, strict=False)
    lines: list[bytes] = []
    # Batches of one model together: one image at a time takes three times as long.
    for _, group in groupby(
        batches, lambda batch: (id(batch.classes), batch.arrays.shape[1:], batch.embedding.shape[1])
    ):
        for record in _records(list(group), own):
            # Only a defect could make a number infinite or NaN. JSON has neither.
            lines += (to_json(record, inf_nan_mode="null"), b"\n")
    return b"".join(lines)


def _records(batches: Sequence[Batch], own: Iterator[tuple[str, str | None]]) -> Iterator[dict[str, Any]]:
    class_list = batches[0].classes.fingerprint
    described = _rounded(np.stack([*describe(np.concatenate([batch.arrays for batch in batches])).values()], axis=1))
    energies = _rounded(np.concatenate([batch.energy for batch in batches]))
    embedding = np.concatenate([batch.embedding for batch in batches])
    half = np.clip(embedding, -_LARGEST_HALF, _LARGEST_HALF).astype("<f2")
    images = (
        (batch.answered, time, prediction, origin, shadow)
        for batch in batches
        for time in [datetime.fromtimestamp(batch.time, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")]
        for prediction, origin, shadow in zip(
            batch.predictions, batch.origins, batch.shadow or repeat(None, len(batch.origins)), strict=True
        )
    )
    for (answered, time, prediction, origin, shadow), descriptors, energy, row in zip(
        images, described, energies, half, strict=True
    ):
        record_id, image = next(own)
        yield {
            "schema_version": SCHEMA_VERSION,
            "record_id": record_id,
            "time": time,
            "request_id": origin.request_id,
            "image_number": origin.number,
            "model_version": prediction.model_version,
            "class_list": class_list,
            "predicted_class": prediction.predicted_class,
            "class_name": prediction.class_name,
            "probability": round(prediction.probability, 6),
            "prediction_set": prediction.prediction_set,
            "is_unknown": prediction.is_unknown,
            "energy": energy,
            **dict(zip(DESCRIPTORS, descriptors, strict=True)),
            "width": origin.width,
            "height": origin.height,
            "jpeg_quality": origin.jpeg_quality,
            "latency_ms": round(1000 * (answered - origin.arrived), 3),
            "image": image,
            "image_probability": origin.image_probability,
            "shadow_model_version": shadow.model_version if shadow else None,
            "shadow_predicted_class": shadow.predicted_class if shadow else None,
            "shadow_probability": round(shadow.probability, 6) if shadow else None,
            "shadow_is_unknown": shadow.is_unknown if shadow else None,
            "embedding": base64.b64encode(row).decode(),
        }


def _rounded(values: NDArray[np.float32]) -> Any:
    """Returns numbers with six decimals, as nested lists. All digits of a float32 would take more space."""
    return np.round(values.astype(np.float64), 6).tolist()
