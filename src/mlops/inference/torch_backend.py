"""Runs a checkpoint in torch. `classifier.py` imports this module for `.pth` files only."""

import threading
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from src.mlops.inference.classifier import Outputs
from src.mlops.modelfile.checkpoint import load_checkpoint
from src.mlops.modelfile.deployed import Deployed
from src.mlops.modelfile.metadata import ModelInfo


class TorchBackend:
    """Runs a checkpoint in torch.

    Args:
        path: The checkpoint.
    """

    def __init__(self, path: Path) -> None:
        checkpoint = load_checkpoint(path)
        self.info: ModelInfo = checkpoint
        self._deployed = Deployed(checkpoint.model, checkpoint.calibration.temperature)
        self._lock = threading.Lock()

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Runs the network on images, uint8 [N, 3, S, S]."""
        with self._lock, torch.inference_mode():
            found = self._deployed(torch.from_numpy(images))
        return Outputs(**{name: out.numpy() for name, out in zip(self._deployed.output_names, found, strict=True)})
