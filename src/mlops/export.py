"""Exports the current checkpoint as ONNX: `python -m src.mlops.export export.variant=int8`."""

import logging
from pathlib import Path

import numpy as np

from src.mlops.cli import hydra_main
from src.mlops.config import Config
from src.mlops.data.packing import open_pack
from src.mlops.data.prepare import prepare
from src.mlops.errors import DataError
from src.mlops.modelfile.checkpoint import load_checkpoint
from src.mlops.modelfile.onnx_export import export
from src.mlops.modelfile.quantization import CALIBRATION_IMAGES
from src.mlops.monitoring.reference import add_reference

__all__ = ["export", "main"]
logger = logging.getLogger("src.mlops.export")


def main(config: Config) -> None:
    """Exports the current checkpoint in the configured variant, with the reference of drift detection."""
    images = None
    if config.export.variant == "int8":
        pack = prepare(config.data)
        checkpoint = load_checkpoint(config.ckpt_path)
        pack.require_fit(checkpoint.image_size, checkpoint.classes)
        arrays = pack.load("train")
        chosen = np.random.default_rng(config.seed).permutation(arrays.rows)[:CALIBRATION_IMAGES]
        images = arrays.images[np.sort(chosen)]

    def complete(file: Path) -> None:
        try:
            pack = open_pack(config.data.processed_dir)  # an export must not start a download
        except DataError as error:
            logger.warning("%s contains no reference for drift detection. %s", file.name, error)
            return
        add_reference(file, pack)

    fp16 = config.export.variant == "fp16"
    export(config.ckpt_path, images, fp16=fp16, opset=config.export.opset, complete=complete)


if __name__ == "__main__":
    hydra_main(main)
