"""Evaluates a checkpoint on a split and writes metrics, predictions and figures."""

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.mlops.config import Config
from src.mlops.data.dataset import Batches
from src.mlops.data.prepare import prepare
from src.mlops.data.sketch import overlap, sketch_of_training
from src.mlops.errors import DataError
from src.mlops.evaluation.measurements import METRICS_FILE, PREDICTIONS_FILE, without_sketch
from src.mlops.evaluation.metrics import expected_calibration_error, per_class_metrics
from src.mlops.evaluation.plots import draw_evaluation
from src.mlops.io.files import to_json
from src.mlops.model import choose_device
from src.mlops.modelfile.checkpoint import load_checkpoint
from src.mlops.modelfile.unknown import energy, is_unknown
from src.mlops.training.metrics import classification_metrics

logger = logging.getLogger(__name__)


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
    split = config.evaluation.split
    arrays = pack.load(split)
    known = sketch_of_training(checkpoint.provenance, pack)
    if known is None and split != "test":
        logger.warning("The model was trained on different splits and may have seen images of this %s split", split)
    elif known and overlap(known, arrays.hashes).is_large:
        logger.warning("The model was trained on images of this %s split, so the metrics are too optimistic", split)
    batches = Batches(arrays, config.evaluation.batch_size).epoch()
    logits = checkpoint.logits(batches, choose_device(config.device))
    labels = arrays.labels
    probabilities = checkpoint.calibration.probabilities(logits)
    predicted = probabilities.argmax(axis=1)
    _, sets = checkpoint.calibration.prediction_sets(probabilities)
    calibration = checkpoint.calibration
    unknown = is_unknown(energy(logits, calibration.temperature), calibration.energy_threshold)

    results: dict[str, Any] = {
        "split": split,
        "images": len(labels),
        "errors": int((predicted != labels).sum()),
        **classification_metrics(labels, predicted),
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
        "prediction_set_coverage": float(np.mean([label in kept for label, kept in zip(labels, sets, strict=True)])),
        "prediction_set_size": float(np.mean([len(kept) for kept in sets])),
        "called_unknown": float(unknown.mean()),
        "epoch": checkpoint.epoch,
        "model": checkpoint.config["model"],
        "provenance": without_sketch(checkpoint.provenance),
        "calibration": checkpoint.calibration.to_dict(),
        "evaluated_on": pack.fingerprint,
        "classes": per_class_metrics(labels, predicted, pack.classes),
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
    reports = config.evaluation.reports_dir
    try:
        # Write to a temporary folder first, so the reports folder never mixes the files of two evaluations.
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            (work / METRICS_FILE).write_text(to_json(results, indent=2) + "\n")
            predictions.to_csv(work / PREDICTIONS_FILE, index=False)
            draw_evaluation(results, predictions, arrays, pack.classes, checkpoint.history, work / "figures")
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
    return results
