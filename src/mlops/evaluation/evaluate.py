"""Evaluates a checkpoint on a split and writes metrics, predictions and figures.

A model can know signs that the data does not have, because it was trained on drawings of them (`classes=germany`). They
are measured on other drawings, separately: these say little about photographs.
"""

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.mlops.config import Config
from src.mlops.data.additional import load_further, prepare_further
from src.mlops.data.dataset import Batches
from src.mlops.data.packing import Pack, SplitArrays
from src.mlops.data.prepare import prepare
from src.mlops.data.sketch import overlap, sketch_of_training
from src.mlops.errors import DataError
from src.mlops.evaluation.measurements import (
    FURTHER,
    FURTHER_PREDICTIONS_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    without_sketch,
)
from src.mlops.evaluation.metrics import expected_calibration_error, per_class_metrics
from src.mlops.evaluation.plots import draw_evaluation, draw_results
from src.mlops.io.files import to_json
from src.mlops.model import choose_device
from src.mlops.modelfile.checkpoint import Checkpoint, load_checkpoint
from src.mlops.modelfile.unknown import energy
from src.mlops.training.metrics import classification_metrics

logger = logging.getLogger(__name__)
UNPROVEN = "Measured on drawings; it is unproven how well photographs of these signs are classified."


def evaluate(config: Config) -> dict[str, Any]:
    """Measures the model at `config.ckpt_path` and writes metrics, predictions and figures to the reports folder.

    Args:
        config: `evaluation.split` selects the images, `data` says where they are.

    Returns:
        The content of `metrics.json`.

    Raises:
        CheckpointError: There is no usable checkpoint, or the model fails.
        OutOfMemoryError: There is not enough memory.
        DataError: The split has no images, the images do not have the size and classes of the model, or the reports
            cannot be written.
    """
    checkpoint = load_checkpoint(config.ckpt_path)
    pack = prepare(config.data)
    pack.require_fit(checkpoint.image_size, checkpoint.classes)
    drawings = prepare_further(config.data, pack, checkpoint.classes, checkpoint.config["training"].get("drawn"))
    split = config.evaluation.split
    arrays = pack.load(split)
    _warn_if_seen(checkpoint, pack, arrays, split)
    measured, predictions = _measure(checkpoint, arrays, config)
    results: dict[str, Any] = {
        "split": split,
        **measured,
        "on_drawings": config.data.source == "synthetic",
        "epoch": checkpoint.epoch,
        "model": checkpoint.config["model"],
        "provenance": without_sketch(checkpoint.provenance),
        "calibration": checkpoint.calibration.to_dict(),
        "evaluated_on": pack.fingerprint,
        "classes": per_class_metrics(arrays.labels, predictions["predicted_class"].to_numpy(), checkpoint.classes),
    }
    further = None
    if drawings:
        shown = load_further(drawings, split, len(pack.classes), len(checkpoint.classes))
        _warn_if_seen(checkpoint, pack, shown, f"drawn {split}")
        results[FURTHER], answers = _measure_further(checkpoint, shown, config)
        further = shown, answers
    reports = config.evaluation.reports_dir
    try:
        # Write to a temporary folder first, so the reports folder never mixes the files of two evaluations.
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            (work / METRICS_FILE).write_text(to_json(results, indent=2) + "\n")
            predictions.to_csv(work / PREDICTIONS_FILE, index=False)
            draw_evaluation(results, predictions, arrays, checkpoint.classes, checkpoint.history, work / "figures")
            if further:
                of_further, (shown, answers) = results[FURTHER], further
                answers.to_csv(work / FURTHER_PREDICTIONS_FILE, index=False)
                draw_results(of_further, answers, shown, checkpoint.classes, work / "figures" / FURTHER)
            # An earlier evaluation may have had further signs.
            (reports / FURTHER_PREDICTIONS_FILE).unlink(missing_ok=True)
            shutil.rmtree(reports / "figures" / FURTHER, ignore_errors=True)
            shutil.copytree(work, reports, dirs_exist_ok=True)
    except OSError as error:
        raise DataError(f"Cannot write the reports to {reports}: {error}.") from error
    logger.info(
        "%s: accuracy %.2f%% (%d of %d misclassified), macro F1 %.4f, ECE %.4f; see %s",
        split,
        100 * results["Accuracy"],
        results["errors"],
        results["images"],
        results["F1"],
        results["expected_calibration_error"],
        reports,
    )
    if drawings:
        _log_further(results[FURTHER])
    return results


def _warn_if_seen(checkpoint: Checkpoint, pack: Pack, arrays: SplitArrays, split: str) -> None:
    known = sketch_of_training(checkpoint.provenance, pack)
    if known is None and not split.endswith("test"):
        logger.warning("The model was trained on different splits and may have seen images of this %s split", split)
    elif known and overlap(known, arrays.hashes).is_large:
        logger.warning("The model was trained on images of this %s split, so the metrics are too optimistic", split)


def _measure(checkpoint: Checkpoint, arrays: SplitArrays, config: Config) -> tuple[dict[str, Any], pd.DataFrame]:
    """Returns the metrics over all images, and a row for each image."""
    batches = Batches(arrays, config.evaluation.batch_size).epoch()
    logits = checkpoint.logits(batches, choose_device(config.device))
    labels, calibration = arrays.labels, checkpoint.calibration
    probabilities = calibration.probabilities(logits)
    predicted = probabilities.argmax(axis=1)
    _, sets = calibration.prediction_sets(probabilities)
    unknown = calibration.is_unknown(probabilities, energy(logits, calibration.temperature))
    results = {
        "images": len(labels),
        "errors": int((predicted != labels).sum()),
        **classification_metrics(labels, predicted),
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
        "prediction_set_coverage": float(np.mean([label in kept for label, kept in zip(labels, sets, strict=True)])),
        "prediction_set_size": float(np.mean([len(kept) for kept in sets])),
        "called_unknown": float(unknown.mean()),
    }
    predictions = pd.DataFrame(
        {
            "path": arrays.paths,
            "class_id": labels,
            "predicted_class": predicted,
            "probability": probabilities.max(axis=1),
            "is_unknown": unknown,
        }
    )
    return results, predictions


def _measure_further(
    checkpoint: Checkpoint, arrays: SplitArrays, config: Config
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Returns the same for drawings of the signs that the data does not have."""
    measured, answers = _measure(checkpoint, arrays, config)
    rows = per_class_metrics(arrays.labels, answers["predicted_class"].to_numpy(), checkpoint.classes)
    split = f"drawn {config.evaluation.split}"
    return {"about": UNPROVEN, "split": split, **measured, "classes": rows}, answers


def _log_further(results: dict[str, Any]) -> None:
    logger.info(
        "%d signs that the data does not have: accuracy %.2f%% (%d of %d drawings misclassified), macro F1 %.4f. %s",
        len(results["classes"]),
        100 * results["Accuracy"],
        results["errors"],
        results["images"],
        results["F1"],
        UNPROVEN,
    )
