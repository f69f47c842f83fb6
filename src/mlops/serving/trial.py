"""Tests a model in a process of its own, which can be killed: `python -m src.mlops.serving.trial FILE SECONDS`.

A model file can contain any computation, for example an endless loop. Without a process of its own, such a model would
block the service forever.
"""

import signal
import sys
from pathlib import Path

import numpy as np

from src.mlops.errors import MlopsError
from src.mlops.inference.classifier import Classifier


def run_trial(path: Path) -> str:
    """Loads a model and runs it on a test image.

    Args:
        path: The model file.

    Returns:
        The version of the model.

    Raises:
        CheckpointError: The file cannot be loaded, or the model fails or returns NaN or infinity.
    """
    classifier = Classifier.load(path)
    classifier.run(np.zeros((1, classifier.image_size, classifier.image_size, 3), np.uint8))
    return classifier.version


if __name__ == "__main__":
    if hasattr(signal, "alarm"):
        signal.alarm(int(sys.argv[2]))  # ends this process also if the service was killed
    try:
        sys.stdout.write(run_trial(Path(sys.argv[1])))
    except MlopsError as error:
        sys.exit(str(error))
