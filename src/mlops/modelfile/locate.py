"""Finds the file of a model by its name: a path, `latest`, a registered version, or a URL."""

import logging
from pathlib import Path

from src.mlops import ROOT
from src.mlops.modelfile.store import fetch, is_reference

logger = logging.getLogger(__name__)
LATEST = "latest"
LATEST_FILES = ("models/latest/best_model.onnx", "models/latest/best_model.pth")  # training writes these files
BUNDLED = "models/pretrained/signnet.onnx"  # part of the repository


def locate_model(name: str) -> Path:
    """Returns the path of the model file that a name refers to.

    Args:
        name: A path, where relative paths start at the repository root; `latest` for the model that was trained last,
            or the bundled model if there is none; a registered version, `models:/gtsrb@production` or `gtsrb@v3`; or a
            `gs://` URL.

    Returns:
        The path of the file. If `name` is a path, the file may not exist.

    Raises:
        RegistryError: The version does not exist, or its file is not the registered one.
        StorageError: The bucket cannot be reached, and there is no copy of the file on this machine.
    """
    if is_reference(name):
        return fetch(name)
    if name != LATEST:
        return ROOT / Path(name).expanduser()
    path = latest_model()
    if path == ROOT / BUNDLED:
        logger.warning("No model in models/latest. Using the bundled model %s", BUNDLED)
    return path


def latest_model() -> Path:
    """Returns the path of the model that was trained last, or of the bundled model if there is none."""
    return next((ROOT / file for file in LATEST_FILES if (ROOT / file).is_file()), ROOT / BUNDLED)
