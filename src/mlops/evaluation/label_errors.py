"""Finds images that probably have a wrong label and writes reports/latest/label_errors.csv: `inv data.label-errors`.

The training and validation images are divided into folds. Each fold is classified by a model that was trained on the
other folds, so no model has learned the label that it is compared with.
"""

import hashlib
import io
import logging
import math
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.model_selection import StratifiedGroupKFold

from src.mlops import ROOT
from src.mlops.cli import hydra_main
from src.mlops.config import Config
from src.mlops.data.checks import merge_tracks
from src.mlops.data.classes import ClassList
from src.mlops.data.dataset import Batches
from src.mlops.data.packing import Pack, SplitArrays, select, without
from src.mlops.data.prepare import prepare
from src.mlops.errors import ConfigError, DataError
from src.mlops.evaluation.confident_learning import doubtful_labels, own_probability
from src.mlops.evaluation.plots import draw_label_errors
from src.mlops.io.files import exclusive, same_place, to_json, write_atomically
from src.mlops.model import choose_device, predict_logits
from src.mlops.training.fit import fit, require_trainable
from src.mlops.training.run_dir import require_writable

logger = logging.getLogger("src.mlops.evaluation.label_errors")
LABEL_ERRORS_FILE = "label_errors.csv"
FOLDS = 5
# A fold is trained for this share of `training.epochs`, and for at least this number of steps of the optimiser. For
# GTSRB, both are three epochs, which are enough in benchmarks/label_errors.py.
SHARE, STEPS = 1 / 6, 700


def label_errors(config: Config) -> pd.DataFrame:
    """Lists the images whose label the models of the other folds contradict, and writes a table and a figure.

    Args:
        config: `data` says where the images are, `model` and `training` how the models are trained, except that
            `training.start_from` and `training.drawn` are not used, and that there are fewer epochs, see `SHARE`.
            `run_dir` is the folder for the results of finished folds; null: `models/label_errors`.

    Returns:
        The content of `label_errors.csv`, the most doubtful image first: `rank`, `path`, `class_id` and `name` of
        the label, `predicted_class` and `predicted_name` of the suggested label, and the probabilities of both,
        `label_probability` and `predicted_probability`.

    Raises:
        ConfigError: A setting cannot be used, or the folder of the folds cannot be written.
        DataError: There are too few images, or a file cannot be written.
        TrainingError: The loss is not finite.
    """
    file = config.evaluation.reports_dir / LABEL_ERRORS_FILE
    if config.data.exclude and same_place(config.data.exclude, file):
        raise ConfigError(
            f"data.exclude={file} would be overwritten with a new list. Rename the file, and set data.exclude to it."
        )
    require_trainable(_of_fold(config, config.training.epochs))
    device = choose_device(config.device)
    pack = prepare(config.data)
    arrays = without(pack.load("train", "val"), config.training.leave_out)
    folds = divide(arrays.labels, merge_tracks(pack.index().loc[arrays.rows]).to_numpy(), config.seed)
    started = time.perf_counter()
    probabilities = out_of_fold(config, pack, arrays, folds, device)
    found = _doubtful(arrays, probabilities, _checkable(arrays.labels, folds, pack.classes), pack.classes)
    table = found.reset_index(drop=True)
    try:
        write_atomically(file, table.to_csv(index=False).encode())
        draw_label_errors(found, arrays, pack.classes, file.parent / "figures" / "label_errors.png")
    except OSError as error:
        raise DataError(f"Cannot write the reports to {file.parent}: {error}.") from error
    logger.info(
        "The labels of %d of %s images are doubtful (%.1f%% of all labels are also predicted), %.0f s. See %s and "
        "figures/label_errors.png. To leave images out, set data.exclude to a copy of the file without the lines of "
        "correct labels",
        len(found),
        f"{len(arrays.rows):,}",
        100 * np.mean(probabilities.argmax(axis=1) == arrays.labels),
        time.perf_counter() - started,
        file,
    )
    return table


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
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # _checkable reports such classes
        for number, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
            folds[held_out] = number
    return folds


def out_of_fold(
    config: Config, pack: Pack, arrays: SplitArrays, folds: NDArray[np.int64], device: torch.device
) -> NDArray[np.floating]:
    """Classifies each fold with a model that was trained on all other folds.

    Finished folds are kept on disk, so a second call reuses them, and continues after an interruption.

    Args:
        config: The complete configuration.
        pack: The prepared data.
        arrays: Images of the pack, with the labels to train with.
        folds: The fold of each image, int64 [N].
        device: The device to train on.

    Returns:
        Probabilities, float [N, C].

    Raises:
        ConfigError: The folder cannot be written.
        DataError: The results of a fold cannot be written.
        TrainingError: The loss is not finite.
    """
    smallest = min(int(np.count_nonzero(folds != number)) for number in np.unique(folds))
    batch_size = config.training.batch_size_for(smallest)
    steps_per_epoch = math.ceil(smallest / batch_size)
    config = _of_fold(config, max(math.ceil(SHARE * config.training.epochs), math.ceil(STEPS / steps_per_epoch)))
    settings = {key: value for key, value in config.to_dict().items() if key in ("model", "training", "seed")}
    digest = hashlib.sha256(to_json([pack.fingerprint, len(pack.classes), settings]).encode())
    digest.update(arrays.labels.tobytes() + folds.tobytes())
    folder = (config.run_dir or ROOT / "models" / "label_errors") / digest.hexdigest()[:16]
    require_writable(folder)
    logits = np.empty((len(folds), len(pack.classes)), np.float32)
    with exclusive(folder):
        for number in np.unique(folds):
            inside = folds == number
            file = folder / f"fold_{number}.npy"
            if not file.is_file():
                logger.info("Fold %d of %d, folder %s", number + 1, folds.max() + 1, folder)
                training, held_out = (select(arrays, np.flatnonzero(part)) for part in (~inside, inside))
                work = folder / f"fold_{number}"
                batches = Batches(training, batch_size, seed=config.seed)
                network = fit(config, batches, pack.classes, pack.fingerprint, device, work)
                _save(file, predict_logits(network, Batches(held_out, config.evaluation.batch_size).epoch()))
                shutil.rmtree(work)
            logits[inside] = np.load(file)
    return np.asarray(softmax(logits.astype(np.float64), axis=1))


def _of_fold(config: Config, epochs: int) -> Config:
    """Returns the configuration of the training on all other folds."""
    training = config.training
    own = {
        "epochs": min(training.epochs, max(epochs, training.frozen_epochs + 1)),
        "resume": True,
        "publish": False,
        "export": False,
        "profile": False,
        "start_from": None,  # this model may have learned the labels that are checked
        "frozen_epochs": 0 if training.start_from else training.frozen_epochs,
        "drawn": None,
    }
    return config.model_copy(update={"training": training.model_copy(update=own)})


def _save(file: Path, logits: NDArray[np.float32]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, logits)
    try:
        write_atomically(file, buffer.getvalue())
    except OSError as error:
        raise DataError(
            f"Cannot write {file}: {error}. The state of the training is kept, so the same command continues there."
        ) from error


def _checkable(labels: NDArray[np.int64], folds: NDArray[np.int64], classes: ClassList) -> NDArray[np.bool_]:
    """Returns which images have a label that their model knows, because it also occurs in other folds, bool [N]."""
    folds_of_class = {class_id: set(folds[labels == class_id]) for class_id in np.unique(labels)}
    alone = [class_id for class_id, found in folds_of_class.items() if len(found) < 2]
    if alone:
        logger.warning(
            "The labels of %d classes cannot be checked, because all their images are in one track, for example %s",
            len(alone),
            classes[alone[0]].name,
        )
    return ~np.isin(labels, alone)


def _doubtful(
    arrays: SplitArrays, probabilities: NDArray[np.floating], checkable: NDArray[np.bool_], classes: ClassList
) -> pd.DataFrame:
    """Returns the doubtful images in the columns of `label_errors`, with their positions as the index."""
    places = np.flatnonzero(checkable)
    places = places[doubtful_labels(probabilities[places], arrays.labels[places])]
    labels, predicted = arrays.labels[places], probabilities[places].argmax(axis=1)
    return pd.DataFrame(
        {
            "rank": np.arange(1, len(places) + 1),
            "path": [arrays.paths[place] for place in places],
            "class_id": labels,
            "name": [classes[class_id].name for class_id in labels],
            "predicted_class": predicted,
            "predicted_name": [classes[class_id].name for class_id in predicted],
            "label_probability": own_probability(probabilities[places], labels),
            "predicted_probability": own_probability(probabilities[places], predicted),
        },
        index=places,
    )


if __name__ == "__main__":
    hydra_main(label_errors)
