"""Divides images into folds, and classifies each fold with a model that was trained on the others.

`label_errors.py` compares the predictions with the labels, `cross_validation.py` compares settings.
"""

import hashlib
import io
import logging
import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from src.mlops.config import Config
from src.mlops.data.additional import TrainingData
from src.mlops.data.classes import ClassList
from src.mlops.data.dataset import Batches
from src.mlops.data.packing import SplitArrays, select
from src.mlops.errors import DataError
from src.mlops.io.files import exclusive, sha256, to_json, write_atomically
from src.mlops.model import predict_logits
from src.mlops.training.fit import fit
from src.mlops.training.run_dir import require_writable

logger = logging.getLogger(__name__)
FOLDS = 5


def divide(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Divides images into folds with similar shares of all classes, and keeps groups together.

    Args:
        labels: Class ids, int64 [N].
        groups: Group of each image, int64 [N].
        seed: Seed of the random order of the groups.

    Returns:
        The fold of each image, int64 [N], counted from 0. There are fewer folds than usual if there are few groups.

    Raises:
        DataError: There are too few images for two folds.
    """
    count = min(FOLDS, len(np.unique(groups)), int(np.bincount(labels).max()))
    if count < 2:
        raise DataError(
            f"Two folds need two tracks and a class with two images, but there are {len(np.unique(groups))} tracks "
            f"and at most {np.bincount(labels).max()} images per class."
        )
    folds = np.zeros(len(labels), np.int64)
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # see classes_in_one_fold
        for number, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
            folds[held_out] = number
    return folds


def classes_in_one_fold(labels: NDArray[np.int64], folds: NDArray[np.int64]) -> list[int]:
    """Returns the ids of the classes that no other fold has, so that the model of their fold does not know them.

    Args:
        labels: Class ids, int64 [N].
        folds: The fold of each image, int64 [N].
    """
    return [int(class_id) for class_id in np.unique(labels) if len(np.unique(folds[labels == class_id])) == 1]


class Folds(NamedTuple):
    """Images in folds, and the images to train on for each fold.

    Attributes:
        arrays: The images, each in one fold.
        numbers: The fold of each image, int64 [N], counted from 0.
        training: For each fold, the images of all other folds, and all images that are added for training.
        classes: The classes to learn.
        fingerprint: Fingerprint of all images.
    """

    arrays: SplitArrays
    numbers: NDArray[np.int64]
    training: list[SplitArrays]
    classes: ClassList
    fingerprint: str


def load_folds(data: TrainingData, arrays: SplitArrays, numbers: NDArray[np.int64]) -> Folds:
    """Loads the images to train on for each fold.

    Args:
        data: All images for training.
        arrays: Training and validation images of its pack, which can have other labels.
        numbers: The fold of each image, int64 [N].
    """
    # All are loaded here, because another process may replace the drawings with others during the trainings.
    training = [
        data.training_images("train", "val", real=select(arrays, np.flatnonzero(numbers != number)))
        for number in range(numbers.max() + 1)
    ]
    return Folds(arrays, numbers, training, data.classes, data.fingerprint)


def of_fold(config: Config) -> Config:
    """Returns the configuration of the training for one fold, without settings that do not change its weights."""
    own = {
        "resume": True,
        "publish": False,
        "export": False,
        "profile": False,
        "final_fit": False,
        "early_stopping": 0,  # there is no validation
    }
    return config.model_copy(update={"training": config.training.model_copy(update=own)})


def classify_folds(config: Config, folds: Folds, device: torch.device, parent: Path) -> NDArray[np.float32]:
    """Classifies each fold with a model that was trained on all other folds.

    The model has the EMA weights of the last epoch: no epoch is chosen by its accuracy on the fold. The results of
    finished folds are kept on disk, so a second call reuses them, and continues after an interruption.

    Args:
        config: The complete configuration.
        folds: The images.
        device: The device to train on.
        parent: Folder for the results. Each combination of settings, seed and images has a subfolder.

    Returns:
        Logits, float32 [N, C].

    Raises:
        ConfigError: The folder cannot be written.
        DataError: The results of a fold cannot be written.
        TrainingError: The loss is not finite.
    """
    config = of_fold(config)
    batch_size = config.training.batch_size_for(min(len(images.rows) for images in folds.training))
    folder = parent / _digest(config, folds)
    require_writable(folder)
    logits = np.empty((len(folds.numbers), len(folds.classes)), np.float32)
    with exclusive(folder):
        for number, training in enumerate(folds.training):
            inside = np.flatnonzero(folds.numbers == number)
            held_out = select(folds.arrays, inside)
            file = folder / f"fold_{number}.npy"
            if not file.is_file():
                logger.info("Fold %d of %d, folder %s", number + 1, len(folds.training), folder)
                work = folder / f"fold_{number}"
                batches = Batches(training, batch_size, seed=config.seed)
                network = fit(config, batches, folds.classes, folds.fingerprint, device, work)
                _save(file, predict_logits(network, Batches(held_out, config.evaluation.batch_size).epoch()))
                shutil.rmtree(work)
            logits[inside] = np.load(file)
            logger.info(
                "Fold %d of %d: %d of %s images are classified differently from their label",
                number + 1,
                len(folds.training),
                np.count_nonzero(logits[inside].argmax(axis=1) != held_out.labels),
                f"{len(inside):,}",
            )
    return logits


def _digest(config: Config, folds: Folds) -> str:
    """Returns a short hash of all that the predictions depend on, except for the code and its packages."""
    # A default in the schema is that of a setting which is newer than the first checkpoints, and means that it is off.
    training = config.training.model_dump(mode="json", exclude_defaults=True)
    if config.training.teachers:
        training["teachers"] = [sha256(path) for path in config.training.teachers]
    settings = {"model": config.model, "training": training, "seed": config.seed}
    digest = hashlib.sha256(to_json([folds.fingerprint, len(folds.classes), settings]).encode())
    digest.update(folds.arrays.labels.tobytes() + folds.numbers.tobytes())
    return digest.hexdigest()[:16]


def _save(file: Path, logits: NDArray[np.float32]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, logits)
    try:
        write_atomically(file, buffer.getvalue())
    except OSError as error:
        raise DataError(
            f"Cannot write {file}: {error}. The state of the training is kept, so the same command continues there."
        ) from error
