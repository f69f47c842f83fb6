"""Evaluates a checkpoint on a split: `python -m src.mlops.evaluate`, or `evaluate(config)` from Python."""

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.mlops.calibration import expected_calibration_error
from src.mlops.checkpoint import load_checkpoint
from src.mlops.config import Config, hydra_main
from src.mlops.data.dataset import Batches
from src.mlops.data.packing import Pack
from src.mlops.data.prepare import prepare
from src.mlops.errors import DataError
from src.mlops.metrics import classification_metrics, per_class_metrics
from src.mlops.model import choose_device, predict_logits
from src.mlops.visualize import draw_evaluation

logger = logging.getLogger(__name__)
METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.csv"


def evaluate(config: Config) -> dict[str, Any]:
    """Measures the model at `config.ckpt_path` and writes metrics, predictions and figures to the reports folder.

    Args:
        config: `evaluation.split` names the images, `data` where they are.

    Returns:
        The content of `metrics.json`.

    Raises:
        CheckpointError: There is no usable checkpoint.
        DataError: There are no such images, or they are packed at another size than the model was trained at.
    """
    checkpoint = load_checkpoint(config.ckpt_path)
    pack = prepare(config.data)
    require_same_size(pack, checkpoint.image_size)
    split = config.evaluation.split
    if split != "test" and checkpoint.provenance.get("data_fingerprint") != pack.fingerprint:
        logger.warning("the model was trained on other splits: it may have seen images of this %s split", split)
    if split == "val" and checkpoint.saw_validation:
        logger.warning("the model was trained on the validation images too: what it makes of them proves nothing")
    arrays = pack.load(split)
    model = checkpoint.model.to(choose_device(config.device))
    logits = predict_logits(model, Batches(arrays, config.evaluation.batch_size).epoch())
    labels = arrays.labels
    probabilities = checkpoint.calibration.probabilities(logits)
    predicted = probabilities.argmax(axis=1)
    _, sets = checkpoint.calibration.prediction_sets(probabilities)
    unknown = checkpoint.calibration.is_unknown(checkpoint.calibration.energy(logits))

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
        "provenance": checkpoint.provenance,
        "calibration": checkpoint.calibration.to_dict(),
        "evaluated_on": pack.fingerprint,
        "classes": per_class_metrics(labels, predicted),
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
        # Made elsewhere first: numbers and figures in the folder are always of one evaluation.
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            (work / METRICS_FILE).write_text(json.dumps(results, indent=2) + "\n")
            predictions.to_csv(work / PREDICTIONS_FILE, index=False)
            draw_evaluation(results, predictions, arrays, checkpoint.history, work / "figures")
            shutil.copytree(work, reports, dirs_exist_ok=True)
    except OSError as error:
        raise DataError(f"expected to write reports to {reports}, found: {error}.") from error
    logger.info(
        "%s: accuracy %.2f %% (%d of %d wrong), macro F1 %.4f, calibration error %.4f; see %s",
        split,
        100 * results["Accuracy"],
        results["errors"],
        results["images"],
        results["F1"],
        results["expected_calibration_error"],
        reports,
    )
    return results


def require_same_size(pack: Pack, image_size: int) -> None:
    """Refuses images that are packed at another size than a model was trained at.

    Raises:
        DataError: They are.
    """
    if pack.image_size != image_size:
        raise DataError(
            f"expected images of {image_size} px, as the model was trained at, found {pack.image_size} px "
            f"in {pack.directory}. Evaluate with data.image_size={image_size} and data.raw_dir."
        )


if __name__ == "__main__":
    hydra_main(evaluate)
