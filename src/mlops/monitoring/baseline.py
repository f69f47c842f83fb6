"""The baseline: what the traffic of a model looks like when nothing has changed.

`reference.py` builds the first baseline of a model, the reference, from labelled images, and the exported ONNX file
contains it. A deployment then accepts a window of its own prediction log, because its traffic differs from the training
set from the first day.
"""

import base64
import binascii
import io
import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from src.mlops.errors import DataError
from src.mlops.inference.classifier import Classifier
from src.mlops.io.files import to_json, write_atomically
from src.mlops.monitoring.accuracy import Estimate, Fitted, estimate
from src.mlops.monitoring.observations import FEATURES, Floats, Observations

logger = logging.getLogger(__name__)
FORMAT = 1
MOST_CLUSTERS = 20_000  # bounds the size of the file to about 2 MB
FEWEST_CLUSTERS = 50  # fewer show nothing but the strongest drift
FEW_CLUSTERS = 200  # fewer show only a strong drift
CLUSTER_SECONDS = 2.0  # longest time between two frames of one sign
EXPORT = "export"  # author of the reference of a model


@dataclass(frozen=True)
class Origin:
    """Where a baseline comes from.

    Attributes:
        name: Version, such as `reference` or `2026-11-30T06:00:00Z`.
        created: When it was accepted, ISO 8601 in UTC.
        author: Who accepted it.
        source: Description of the records, such as the URL and the window of the log.
        model_version: First twelve digits of the SHA-256 of the model file.
        class_list: Fingerprint of the class list.
        classes: Names of the classes.
        images: Number of images before they were reduced to one frame per cluster.
        cluster_seconds: Longest time between two frames of one sign; 0: all images are independent. Windows are
            compared with the same value, unless another is asked for.
    """

    name: str
    created: str
    author: str
    source: str
    model_version: str
    class_list: str
    classes: list[str]
    images: int
    cluster_seconds: float = CLUSTER_SECONDS

    @property
    def described(self) -> str:
        """Returns who made it and when, in words."""
        who = "built with the model" if self.author == EXPORT else f"accepted by {self.author}"
        return f"{who} at {self.created.replace('+00:00', 'Z')}"


class Knowledge(NamedTuple):
    """What is known from labelled images about the model. All baselines of a model share it.

    Attributes:
        centres: Mean embedding of each class, scaled to length 1, float32 [C, D].
        confusion: Share of the images of class y that are classified as class c, float32 [C, C] at [y, c].
        coefficients: See `accuracy.Fitted`, float64 [K]; empty if there were no labelled images.
        known: See `accuracy.Fitted`, float64 [G, F + 2].
        accuracy_error: 95 % quantile of `accuracy.relative_error` on kinds of corruptions that the fit did not see,
            float64 [].
    """

    centres: Floats
    confusion: Floats
    coefficients: NDArray[np.float64]
    known: NDArray[np.float64]
    accuracy_error: NDArray[np.float64]


@dataclass(frozen=True)
class Baseline:
    """One frame of each cluster of the accepted traffic.

    Attributes:
        origin: Where it comes from.
        predicted: Class ids, int64 [M].
        unknown: Whether the image was reported as unknown, bool [M].
        values: One column per name in `FEATURES`, float32 [M, F].
        knowledge: What labelled images say about the model.
    """

    origin: Origin
    predicted: NDArray[np.int64]
    unknown: NDArray[np.bool_]
    values: Floats
    knowledge: Knowledge

    @classmethod
    def of(cls, observations: Observations, origin: Origin, knowledge: Knowledge, seed: int = 0) -> Self:
        """Chooses one frame of each cluster at random.

        Raises:
            DataError: There are fewer than `FEWEST_CLUSTERS` clusters.
        """
        order = np.random.default_rng(seed).permutation(len(observations))
        first = np.unique(observations.cluster[order], return_index=True)[1]
        rows = np.sort(order[np.random.default_rng(seed).permutation(first)[:MOST_CLUSTERS]])
        if len(rows) < FEWEST_CLUSTERS:
            raise DataError(
                f"A baseline needs at least {FEWEST_CLUSTERS} physical signs, but the {len(observations):,} images of "
                f"{origin.source} show only {len(rows)}. Choose a longer window."
            )
        if len(rows) < FEW_CLUSTERS:
            logger.info(
                "The baseline of drift detection has only %d independent images, so only strong drift will be found",
                len(rows),
            )
        chosen = observations.take(rows)
        if 2 * (unknown := int(chosen.unknown.sum())) > len(rows):
            logger.warning(
                "%d of the %d physical signs are unknown to the model, so the camera and the mix of classes are judged "
                "by the few others. Check that the model fits these images",
                *(unknown, len(rows)),
            )
        origin = replace(origin, images=len(observations))
        return cls(origin, chosen.predicted, chosen.unknown, chosen.values, knowledge)

    def __len__(self) -> int:
        """Returns the number of clusters."""
        return len(self.predicted)

    @cached_property
    def sorted_values(self) -> list[Floats]:
        """Returns for each class the values of the images that are not unknown, each column sorted, float32 [m, F]."""
        known = ~self.unknown
        return [
            np.sort(self.values[known & (self.predicted == label)], axis=0) for label in range(len(self.origin.classes))
        ]

    @cached_property
    def sorted_scores(self) -> Floats:
        """Returns the values of all images, each column sorted, float32 [M, F]."""
        return np.sort(self.values, axis=0)

    def estimate_accuracy(self, stream: Observations) -> Estimate | None:
        """Estimates the accuracy on observations; None if nothing is known from labelled images."""
        knowledge = self.knowledge
        if not len(knowledge.coefficients):
            return None
        fitted = Fitted(knowledge.coefficients, knowledge.known)
        return estimate(fitted, stream.values, stream.cluster, float(knowledge.accuracy_error))

    def to_bytes(self) -> bytes:
        """Returns the content of a compressed `.npz` file, the same for equal baselines."""
        about = to_json({"format": FORMAT, "features": list(FEATURES), **asdict(self.origin)})
        arrays = {
            "about": np.frombuffer(about.encode(), np.uint8),
            "predicted": self.predicted.astype(np.int32),
            "unknown": self.unknown,
            "values": self.values,
            **self.knowledge._asdict(),
            "centres": self.knowledge.centres.astype(np.float16),
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:  # np.savez would add the current time
            for name, array in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, array, allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)
        return buffer.getvalue()

    def save(self, path: Path) -> None:
        """Writes a file atomically.

        Raises:
            DataError: The file cannot be written.
        """
        try:
            write_atomically(path, self.to_bytes())
        except OSError as error:
            raise DataError(f"Cannot write the baseline {path}: {error}.") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a file that `save` wrote.

        Raises:
            DataError: The file is missing, corrupted or of another format.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"Cannot read the baseline {path}: {error.strerror}. Accept a window of the prediction log as the "
                "baseline with `inv drift.baseline`."
            ) from error
        return cls.from_bytes(content, str(path))

    @classmethod
    def from_bytes(cls, content: bytes, name: str) -> Self:
        """Reads what `to_bytes` returned.

        Args:
            content: The content of a file.
            name: Path or URL of the file, for messages.

        Raises:
            DataError: The content is corrupted or of another format.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = dict(file)
            about = json.loads(arrays["about"].tobytes())
            if about.pop("format") != FORMAT or tuple(about.pop("features")) != FEATURES:
                raise DataError(
                    f"The baseline {name} was written by another release, which measured other features. Accept a new "
                    "one with `inv drift.baseline`."
                )
            return cls(Origin(**about), *_columns(arrays))
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"The baseline {name} is corrupted ({len(content):,} bytes; {type(error).__name__}: {error}). Restore "
                "the file, or accept a new baseline with `inv drift.baseline`."
            ) from error

    @classmethod
    def of_model(cls, path: Path) -> Self:
        """Returns the reference that a model file contains.

        Raises:
            CheckpointError: The model file cannot be read.
            DataError: It contains no reference.
        """
        classifier = Classifier.load(path)
        if classifier.info.reference is None:
            raise DataError(
                f"The model {path} contains no reference, so there is nothing to compare its traffic with. Prepare the "
                f"data that it was trained on, with held-out images of at least {FEWEST_CLUSTERS} physical signs, and "
                "export it with `inv model.export`."
            )
        try:
            content = base64.b64decode(classifier.info.reference, validate=True)
        except binascii.Error:
            content = b""
        reference = cls.from_bytes(content, f"in {path}")
        # The file contains the reference, so the reference cannot contain the hash of the file.
        return replace(reference, origin=replace(reference.origin, model_version=classifier.version))


def _columns(arrays: Mapping[str, NDArray[Any]]) -> tuple[Any, ...]:
    knowledge = Knowledge(*(arrays[name] for name in Knowledge._fields))
    knowledge = knowledge._replace(centres=knowledge.centres.astype(np.float32))
    predicted, unknown, values = arrays["predicted"].astype(np.int64), arrays["unknown"], arrays["values"]
    classes = len(knowledge.centres)
    if not len(predicted) == len(unknown) == len(values) or values.shape[1:] != (len(FEATURES),):
        raise ValueError(f"its columns have the lengths {len(predicted)}, {len(unknown)} and {values.shape}")
    if len(predicted) and not 0 <= predicted.min() <= predicted.max() < classes:
        raise ValueError(f"it has classes from {predicted.min()} to {predicted.max()}, but knows {classes}")
    return predicted, unknown, values, knowledge


def now() -> str:
    """Returns the current time, ISO 8601 in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
