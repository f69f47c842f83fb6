"""What every model file says about itself, checkpoint and ONNX alike. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.mlops.calibration import Calibration
from src.mlops.data.signs import NUM_CLASSES, SIGNS
from src.mlops.errors import CheckpointError

FORMAT_VERSION = 3  # 1 normalised over the whole image; 2 had other prediction sets
UNCOMMITTED = "+changes"  # after the commit in `provenance`: files differed from it
CLASSES = [{"class_id": sign.class_id, "number": sign.number, "name": sign.name} for sign in SIGNS]

INTENDED_USE = """\
Names the traffic sign in a picture that is cropped to one German sign with a margin of about a tenth, as the
[GTSRB](https://benchmark.ini.rub.de/) benchmark has them. It does not find signs in a scene. An answer with
`is_unknown` true, or with more than one class in `prediction_set`, is not to be acted upon without another source.
It is not certified for a safety function by itself."""


@dataclass(frozen=True)
class ModelInfo:
    """The facts of a model file beside its weights.

    Attributes:
        config: The whole resolved config of its training, nested plain values.
        metrics: The metrics of its epoch; after a final fit those of the best epoch before, on held-out images.
        calibration: Temperature and thresholds; the neutral ones where none were fitted.
        provenance: `git_commit`, `created`, `versions`, `data_fingerprint`, `trained_on` (splits), `seed`.
    """

    config: dict[str, Any]
    metrics: dict[str, float]
    calibration: Calibration
    provenance: dict[str, Any]

    @property
    def image_size(self) -> int:
        """Side in px of the images that the model was trained on."""
        return int(self.config["data"]["image_size"])

    @property
    def saw_validation(self) -> bool:
        """Whether the model was trained on the validation images too, as a final fit is; they then prove nothing."""
        return "val" in self.provenance.get("trained_on", [])


def read_info(content: Mapping[str, Any], path: Path) -> ModelInfo:
    """Reads the facts from the plain values of a file.

    Args:
        content: `format_version`, `config`, `classes`, `metrics`, `calibration` and `provenance`.
        path: The file, for messages.

    Raises:
        CheckpointError: The file is of another format, or a fact is missing or makes no sense.
    """
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"expected a model file of format {FORMAT_VERSION} at {path}, found format {version!r}. "
            "Use the release that wrote it, or train anew."
        )
    try:
        info = ModelInfo(
            config=content["config"],
            metrics=dict(content["metrics"]),
            calibration=Calibration.from_dict(content["calibration"]),
            provenance=dict(content["provenance"]),
        )
        names, image_size = [entry["name"] for entry in content["classes"]], info.image_size
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise incomplete(path, error) from error
    if names != [sign.name for sign in SIGNS]:
        raise incomplete(path, ValueError(f"expected the {NUM_CLASSES} classes of GTSRB, found {len(names)} others"))
    if not 24 <= image_size <= 512:
        raise incomplete(path, ValueError(f"image size {image_size} px"))
    return info


def incomplete(path: Path, error: Exception) -> CheckpointError:
    """Makes the error for a model file whose parts do not fit together."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return CheckpointError(
        f"expected a complete model file at {path}, found one whose parts do not fit: {type(error).__name__}: "
        f"{' '.join(line.strip() for line in reason[:2])}. Train anew or fetch the file again."
    )
