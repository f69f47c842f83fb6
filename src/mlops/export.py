"""Exports the current checkpoint as ONNX: `python -m src.mlops.export export.variant=int8`."""

import numpy as np

from src.mlops.cli import hydra_main
from src.mlops.config import Config
from src.mlops.data.prepare import prepare
from src.mlops.modelfile.checkpoint import load_checkpoint
from src.mlops.modelfile.onnx_export import export
from src.mlops.modelfile.quantization import CALIBRATION_IMAGES

__all__ = ["export", "main"]


def main(config: Config) -> None:
    """Exports the current checkpoint in the configured variant."""
    if config.export.variant == "int8":
        pack = prepare(config.data)
        checkpoint = load_checkpoint(config.ckpt_path)
        pack.require_fit(checkpoint.image_size, checkpoint.classes)
        arrays = pack.load("train")
        chosen = np.random.default_rng(config.seed).permutation(arrays.rows)[:CALIBRATION_IMAGES]
        export(config.ckpt_path, arrays.images[np.sort(chosen)], opset=config.export.opset)
    else:
        export(config.ckpt_path, fp16=config.export.variant == "fp16", opset=config.export.opset)


if __name__ == "__main__":
    hydra_main(main)
