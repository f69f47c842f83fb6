"""Fits the calibration of a trained model again, with the current settings of `calibration`.

`python -m src.mlops.evaluation.recalibrate calibration.coverage=0.99` changes the model at `ckpt_path`. Export it again
afterwards; `inv model.recalibrate` does both.
"""

import logging

from src.mlops.cli import hydra_main
from src.mlops.config import Config
from src.mlops.data.additional import load_further, prepare_further
from src.mlops.data.dataset import Batches
from src.mlops.data.packing import stack, without
from src.mlops.data.prepare import prepare
from src.mlops.errors import DataError
from src.mlops.modelfile.calibration import Calibration, warn_about_coverage
from src.mlops.modelfile.checkpoint import load_checkpoint, read_plain, write_content

logger = logging.getLogger("src.mlops.evaluation.recalibrate")


def calibrate(config: Config) -> Calibration:
    """Fits the temperature and the thresholds on the validation images, and writes them to the checkpoint.

    Args:
        config: `ckpt_path` is the checkpoint, `calibration` holds the settings.

    Returns:
        The new calibration.

    Raises:
        CheckpointError: There is no usable checkpoint, or the model fails.
        OutOfMemoryError: There is not enough memory.
        DataError: The model was trained on the validation images, or the data is not the data of its training.
    """
    checkpoint = load_checkpoint(config.ckpt_path)
    pack = prepare(config.data)
    pack.require_fit(checkpoint.image_size, checkpoint.classes)
    if checkpoint.saw_validation:
        raise DataError(
            f"{config.ckpt_path} is a final-fit model. It was also trained on the validation images, so they cannot be "
            "used to calibrate it. Calibrate best_model.pth in its run folder, or train with the new settings."
        )
    if checkpoint.provenance["data_fingerprint"] != pack.fingerprint:
        raise DataError(
            f"{config.ckpt_path} was not trained on the splits in {pack.directory} and may have seen these "
            "validation images. Use the data that it was trained on."
        )
    # As in the training: the threshold for unknown images must not depend on classes that the model does not know.
    arrays = without(pack.load("val"), checkpoint.config["training"].get("leave_out", []))
    drawings = prepare_further(config.data, pack, checkpoint.classes, checkpoint.config["training"].get("drawn"))
    if drawings:
        if checkpoint.provenance.get("drawn_fingerprint") != drawings.fingerprint:
            raise DataError(
                f"{config.ckpt_path} was trained on other drawings than this release draws, and may have seen some of "
                "them. Calibrate it with the release that trained it, or train a new model."
            )
        arrays = stack(arrays, load_further(drawings, "val", len(pack.classes), len(checkpoint.classes)))
    logits = checkpoint.logits(Batches(arrays, config.evaluation.batch_size).epoch())
    warn_about_coverage(len(arrays.rows), config.calibration.coverage)
    calibration = Calibration.fit(logits, arrays.labels, **config.calibration.model_dump())
    write_content(config.ckpt_path, read_plain(config.ckpt_path) | {"calibration": calibration.to_dict()})
    logger.info("Calibrated %s: %s", config.ckpt_path, calibration)
    return calibration


if __name__ == "__main__":
    hydra_main(calibrate)
