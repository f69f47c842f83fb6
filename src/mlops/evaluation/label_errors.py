"""Finds images that probably have a wrong label and writes reports/latest/label_errors.csv: `inv data.label-errors`.

The training and validation images are divided into folds. Each fold is classified by a model that was trained on the
other folds, so no model has learned the label that it is compared with.
"""

import logging
import math
import time

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from src.mlops import ROOT
from src.mlops.cli import hydra_main
from src.mlops.config import Config
from src.mlops.data.additional import TrainingData
from src.mlops.data.checks import merge_tracks
from src.mlops.data.classes import ClassList
from src.mlops.data.packing import Pack, SplitArrays, without
from src.mlops.data.prepare import prepare
from src.mlops.errors import ConfigError, DataError
from src.mlops.evaluation.confident_learning import doubtful_labels, own_probability
from src.mlops.evaluation.folds import classes_in_one_fold, classify_folds, divide, load_folds, of_fold
from src.mlops.evaluation.plots import draw_label_errors
from src.mlops.io.files import same_place, write_atomically
from src.mlops.model import choose_device
from src.mlops.training.fit import require_trainable

logger = logging.getLogger("src.mlops.evaluation.label_errors")
LABEL_ERRORS_FILE = "label_errors.csv"
# A fold is trained for this share of `training.epochs`, and for at least this number of steps of the optimiser. For
# GTSRB, both are three epochs, which are enough in benchmarks/label_errors.py.
SHARE, STEPS = 1 / 6, 700


def label_errors(config: Config) -> pd.DataFrame:
    """Lists the images whose label the models of the other folds contradict, and writes a table and a figure.

    Args:
        config: `data` says where the images are, `model` and `training` how the models are trained, except that
            `start_from`, `teachers`, `drawn` and `outliers` are not used, and that there are fewer epochs, see
            `SHARE`. `run_dir` is the folder for the results of finished folds; null: `models/label_errors`.

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
    require_trainable(of_fold(_shortened(config, config.training.epochs)))
    device = choose_device(config.device)
    pack = prepare(config.data)
    arrays = without(pack.load("train", "val"), config.training.leave_out)
    numbers = divide(arrays.labels, merge_tracks(pack.index().loc[arrays.rows]).to_numpy(), config.seed)
    started = time.perf_counter()
    probabilities = out_of_fold(config, pack, arrays, numbers, device)
    found = _doubtful(arrays, probabilities, _checkable(arrays.labels, numbers, pack.classes), pack.classes)
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


def out_of_fold(
    config: Config, pack: Pack, arrays: SplitArrays, numbers: NDArray[np.int64], device: torch.device
) -> NDArray[np.floating]:
    """Classifies each fold with a model that was trained on all other folds, see `classify_folds`.

    Args:
        config: The complete configuration.
        pack: The prepared data.
        arrays: Images of the pack, with the labels to train with.
        numbers: The fold of each image, int64 [N].
        device: The device to train on.

    Returns:
        Probabilities, float [N, C].

    Raises:
        ConfigError: The folder cannot be written.
        DataError: The results of a fold cannot be written.
        TrainingError: The loss is not finite.
    """
    folds = load_folds(TrainingData(pack, None, None, config.training.leave_out), arrays, numbers)
    smallest = min(len(images.rows) for images in folds.training)
    steps_per_epoch = math.ceil(smallest / config.training.batch_size_for(smallest))
    epochs = max(math.ceil(SHARE * config.training.epochs), math.ceil(STEPS / steps_per_epoch))
    folder = config.run_dir or ROOT / "models" / "label_errors"
    logits = classify_folds(_shortened(config, epochs), folds, device, folder)
    return np.asarray(softmax(logits.astype(np.float64), axis=1))


def _shortened(config: Config, epochs: int) -> Config:
    """Returns the configuration with fewer epochs, and without models that may have learned the labels to check."""
    training = config.training
    own: dict[str, object] = {
        "epochs": min(training.epochs, max(epochs, training.frozen_epochs + 1)),
        "start_from": None,
        "frozen_epochs": 0 if training.start_from else training.frozen_epochs,
        "teachers": [],
        "drawn": None,
        "outliers": None,
    }
    return config.model_copy(update={"training": training.model_copy(update=own)})


def _checkable(labels: NDArray[np.int64], numbers: NDArray[np.int64], classes: ClassList) -> NDArray[np.bool_]:
    """Returns which images have a label that their model knows, because it also occurs in other folds, bool [N]."""
    alone = classes_in_one_fold(labels, numbers)
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
