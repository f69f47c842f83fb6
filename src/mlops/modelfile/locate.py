"""Finds the file of a model by its name: a path, `latest`, a registered version, or a URL."""

import logging
from pathlib import Path

from src.mlops import ROOT
from src.mlops.errors import NotPromotedError
from src.mlops.modelfile.store import SCHEME, STAGES, fetch, is_reference, model_name

logger = logging.getLogger(__name__)
LATEST = "latest"
LATEST_FILES = ("models/latest/best_model.onnx", "models/latest/best_model.pth")  # training writes these files
BUNDLED = "models/pretrained/signnet.onnx"  # part of the repository


def locate_model(name: str) -> Path:
    """Returns the path of the model file that a name refers to.

    Args:
        name: A path, where relative paths start at the repository root; `latest` for the model that was trained last,
            or the bundled model if there is none; `production` or `staging` for the version that is promoted to the
            stage, or the bundled model while none was ever promoted; a registered version, `models:/gtsrb@production`
            or `gtsrb@v3`; or a `gs://` URL.

    Returns:
        The path of the file. If `name` is a path, the file may not exist.

    Raises:
        RegistryError: The version does not exist, or its file is not the registered one.
        StorageError: The bucket cannot be reached, and there is no copy of the file on this machine.
    """
    if name in STAGES:
        return _promoted_model(name)
    if is_reference(name):
        return fetch(name)
    if name != LATEST:
        return ROOT / Path(name).expanduser()
    path = latest_model()
    if path == ROOT / BUNDLED:
        logger.warning("No model in models/latest. Using the bundled model %s", BUNDLED)
    return path


def _promoted_model(stage: str) -> Path:
    """Returns the model in a stage. Any failure is an error, because another model would give other answers."""
    try:
        return fetch(f"{SCHEME}{model_name()}@{stage}")
    except NotPromotedError:
        logger.warning("No version was ever promoted to %s. Using the bundled model %s", stage, BUNDLED)
        return ROOT / BUNDLED


def latest_model() -> Path:
    """Returns the path of the model that was trained last, or of the bundled model if there is none."""
    return next((ROOT / file for file in LATEST_FILES if (ROOT / file).is_file()), ROOT / BUNDLED)
