"""Reads the measured results from the reports folder and checks that they belong to the model."""

import json
import logging
from pathlib import Path
from typing import Any

from src.mlops.config import Config
from src.mlops.errors import DataError
from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile.calibration import Calibration

logger = logging.getLogger(__name__)
METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.csv"
FURTHER = "further_signs"  # key of the results for signs that the data does not have, and folder of their figures
FURTHER_PREDICTIONS_FILE = "predictions_further_signs.csv"
ROBUSTNESS_FILE = "robustness.json"


def read_measurements(config: Config, classifier: Classifier) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Reads the measured results and checks that they belong to the model.

    Args:
        config: `evaluation.reports_dir` is the folder of the results.
        classifier: The model.

    Returns:
        The content of metrics.json, and the content of robustness.json or None if there is none for this model.

    Raises:
        DataError: The results are missing, cannot be read, or belong to another model.
    """
    folder, info = config.evaluation.reports_dir, classifier.info
    metrics = read_json(folder / METRICS_FILE, "inv evaluate")
    origin = without_sketch(metrics.get("provenance") or {})
    if origin != without_sketch(info.provenance) or _calibration(metrics) != info.calibration:
        raise DataError(
            f"{folder / METRICS_FILE} does not belong to the model at {config.ckpt_path}, but to a different one. "
            "Evaluate this model with `inv evaluate`."
        )
    robustness = None
    if (folder / ROBUSTNESS_FILE).is_file():
        robustness = read_json(folder / ROBUSTNESS_FILE, "inv model.robustness")
        if robustness.get("model_version") != classifier.version:
            logger.warning(
                "Ignoring %s, which belongs to another model. Measure this model with `inv model.robustness`",
                folder / ROBUSTNESS_FILE,
            )
            robustness = None
    return metrics, robustness


def without_sketch(provenance: dict[str, Any]) -> dict[str, Any]:
    """Returns a provenance without the sketch of the training images: `dvc metrics diff` would show its 16 kB."""
    return {key: value for key, value in provenance.items() if key != "image_sketch"}


def _calibration(metrics: dict[str, Any]) -> Calibration | None:
    """Returns the calibration in metrics.json, also from files without the values that a later release added."""
    try:
        return Calibration.from_dict(metrics["calibration"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def read_json(path: Path, command: str) -> dict[str, Any]:
    """Reads a JSON file of measured results.

    Args:
        path: The file.
        command: The command that writes the file, for the message.

    Returns:
        The content of the file.

    Raises:
        DataError: The file is missing, cannot be read, or contains NaN or infinity.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(), parse_constant=_refuse)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is missing or is not valid JSON. Create it with `{command}`.") from error
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")  # earlier releases wrote it, but the registry cannot store it
