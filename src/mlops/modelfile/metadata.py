"""Metadata that both checkpoints and ONNX files contain. Reading it needs no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.mlops.data.classes import ClassList
from src.mlops.errors import CheckpointError
from src.mlops.io.files import to_json
from src.mlops.modelfile.calibration import Calibration

TOLERANCE = 1e-4  # largest allowed difference between the probabilities of a checkpoint and its export
FP16_TOLERANCE = 0.01  # the same for an export in float16, which has three decimal digits
SUFFIXES = {"fp32": ".onnx", "fp16": ".fp16.onnx", "int8": ".int8.onnx"}  # of the exports of best_model.pth
MAX_FILE_BYTES = 1_000_000_000  # the state of a run with the widest SignNet has about 600 MB, a model at most 120 MB
MAX_METADATA_CHARACTERS = 4_000_000  # keys and values of an ONNX file; a real file has about 100,000
REFERENCE = "reference"  # key in the metadata of an ONNX file
FORMAT_VERSION = 3  # format 1 normalised over the whole image; format 2 had other prediction sets


@dataclass(frozen=True)
class ModelInfo:
    """The content of a model file except its weights.

    Attributes:
        config: The complete resolved config of the training, nested plain values.
        classes: The class list.
        metrics: The metrics of the saved epoch. After a final fit, the metrics of the best epoch before it, which were
            measured on held-out images.
        calibration: Temperature and thresholds; neutral values if none were fitted.
        provenance: `git_commit`, `created`, `versions`, `data_fingerprint`, `trained_on` (splits), `seed`,
            `image_sketch` (`data/sketch.py`; None if the training images are not known, missing in older files),
            `collected_fingerprint` (only if images of `data.collected` were used), `drawn_classes` (only if there were
            no photographs of some classes) and `drawn_fingerprint` (only if the data did not have some classes at all).
        reference: What drift detection knows about the model (`monitoring/reference.py`); None in checkpoints.
    """

    config: dict[str, Any]
    classes: ClassList
    metrics: dict[str, float]
    calibration: Calibration
    provenance: dict[str, Any]
    reference: str | None

    @property
    def image_size(self) -> int:
        """Side in px of the images that the model was trained on."""
        return int(self.config["data"]["image_size"])

    @property
    def drawn_classes(self) -> list[int]:
        """Ids of the classes of which it was trained on drawings, but on no photographs."""
        stored = self.provenance.get("drawn_classes")
        return [place for place in range(len(self.classes)) if isinstance(stored, list) and place in stored]

    @property
    def saw_validation(self) -> bool:
        """Whether the model was also trained on the validation images, which then cannot be used to test it."""
        return "val" in self.provenance.get("trained_on", [])


def read_info(content: Mapping[str, Any], path: Path) -> ModelInfo:
    """Returns the metadata of a model file.

    Args:
        content: `format_version`, `config`, `classes`, `metrics`, `calibration` and `provenance`.
        path: The path of the file, for messages.

    Raises:
        CheckpointError: The file has another format, or a value is missing or invalid.
    """
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"The model file {path} has format {version!r}, but this release reads only format {FORMAT_VERSION}. "
            "Use the release that wrote the file, or train a new model."
        )
    try:
        info = ModelInfo(
            config=content["config"],
            classes=ClassList.from_dicts(content["classes"]),
            # Without the values that JSON cannot represent, which some old files contain
            metrics={name: value for name, value in content["metrics"].items() if math.isfinite(value)},
            calibration=Calibration.from_dict(content["calibration"]),
            provenance=dict(content["provenance"]),
            reference=content.get(REFERENCE),
        )
        image_size = info.image_size
        to_json([info.config, info.provenance])  # raises for anything that cannot be served or registered
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise incomplete(path, error) from error
    if not isinstance(info.reference, str | None):
        raise incomplete(path, TypeError(f"the reference must be text, but is {type(info.reference).__name__}"))
    if not 24 <= image_size <= 512:
        raise incomplete(path, ValueError(f"image_size must be 24 to 512 px, but is {image_size}"))
    return info


def require_size(path: Path, size: int) -> None:
    """Checks the size of a model file before it is loaded.

    Raises:
        CheckpointError: The file is larger than `MAX_FILE_BYTES`.
    """
    if size > MAX_FILE_BYTES:
        raise CheckpointError(
            f"The model file {path} has {size:,} bytes, but at most {MAX_FILE_BYTES:,} are loaded. It is corrupted or "
            "not a model of this project. Fetch the file again, or train a new model."
        )


def incomplete(path: Path, error: Exception) -> CheckpointError:
    """Returns the error for a model file that is incomplete or inconsistent."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return CheckpointError(
        f"The model file {path} is incomplete or inconsistent: {type(error).__name__}: "
        f"{' '.join(line.strip() for line in reason[:2])}. Fetch the file again, or train a new model."
    )
