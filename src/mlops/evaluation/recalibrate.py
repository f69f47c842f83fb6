"""Fits a trained model's calibration anew, with `calibration.coverage` or `calibration.false_alarms` as they are now.

`python -m src.mlops.calibrate calibration.coverage=0.99` changes the model at `ckpt_path`, and its export.
"""

import logging

from src.mlops.calibration import Calibration
from src.mlops.checkpoint import load_checkpoint, read_plain, write_content
from src.mlops.config import Config, hydra_main
from src.mlops.data.dataset import Batches
from src.mlops.data.prepare import prepare
from src.mlops.errors import DataError
from src.mlops.evaluate import require_same_size
from src.mlops.export import export
from src.mlops.model import predict_logits

logger = logging.getLogger("src.mlops.calibrate")


def calibrate(config: Config) -> Calibration:
    """Fits temperature, prediction sets and the threshold of unknown pictures on the validation images.

    Raises:
        CheckpointError: There is no usable checkpoint.
        DataError: The model was trained on these validation images, so that they could only flatter it, or they are not
            those of its training.
    """
    checkpoint = load_checkpoint(config.ckpt_path)
    pack = prepare(config.data)
    require_same_size(pack, checkpoint.image_size)
    if checkpoint.saw_validation:
        raise DataError(
            f"expected a model that was not trained on validation images, found {config.ckpt_path}, which is of a "
            "final fit. Calibrate the run's own best_model.pth, or train with the new setting."
        )
    if checkpoint.provenance["data_fingerprint"] != pack.fingerprint:
        raise DataError(
            f"expected the data that {config.ckpt_path} was trained on, found other splits in {pack.directory}: the "
            "model may have seen their validation images."
        )
    arrays = pack.load("val")
    logits = predict_logits(checkpoint.model, Batches(arrays, config.evaluation.batch_size).epoch())
    calibration = Calibration.fit(logits, arrays.labels, **config.calibration.model_dump())
    write_content(config.ckpt_path, read_plain(config.ckpt_path) | {"calibration": calibration.to_dict()})
    logger.info("calibrated %s: %s", config.ckpt_path, calibration)
    return calibration


def main(config: Config) -> None:
    """Calibrates, and exports the result."""
    calibrate(config)
    export(config.ckpt_path)


if __name__ == "__main__":
    hydra_main(main)
