"""The start of a training, and a training without validation."""

from pathlib import Path
from typing import cast

import torch

from src.mlops.config import Config
from src.mlops.data.augment import OUTLIER
from src.mlops.data.classes import ClassList
from src.mlops.data.dataset import Batches
from src.mlops.data.gtsrb import SIGNS
from src.mlops.errors import ConfigError, TrainingError
from src.mlops.model import Network, build_model
from src.mlops.modelfile.checkpoint import load_checkpoint, read_plain
from src.mlops.training import distributed
from src.mlops.training.loss import load_teachers
from src.mlops.training.optimizer import balanced_weights, require_usable
from src.mlops.training.pretrained import has_pretrained_features, load_pretrained
from src.mlops.training.pruning import start_from
from src.mlops.training.run_dir import LAST, require_writable, saving
from src.mlops.training.tracking import CsvTracker
from src.mlops.training.train_loop import State, run_epochs, seed_everything


def require_trainable(config: Config) -> None:
    """Raises an error if settings that are valid on their own cannot be used together.

    Raises:
        ConfigError: Names the settings.
    """
    training = config.training
    largest = max((side for side, _ in training.size_schedule), default=0)
    if largest > config.data.image_size:
        raise ConfigError(
            f"training.size_schedule has {largest:g} px, but the images only have data.image_size="
            f"{config.data.image_size} px. Use smaller sizes, or training.size_schedule=[]."
        )
    if training.batch_size and training.batch_size < distributed.processes():
        raise ConfigError(
            f"training.batch_size must be at least the number of processes, {distributed.processes()}, but is "
            f"{training.batch_size}."
        )
    for path in (config.ckpt_path, config.ckpt_path.with_suffix(".onnx")):
        if training.publish and path.is_dir():
            raise ConfigError(f"Cannot write the model to {path}, because it is a folder. Set another ckpt_path.")
    model = initial_model(config, None)
    if model.dropout.p >= 1:
        raise ConfigError("model.dropout must be below 1, but is 1; the last layer would get no features.")
    if training.frozen_epochs and not training.start_from and not has_pretrained_features(model):
        raise ConfigError(
            f"training.frozen_epochs must be 0, because the features of {type(model).__name__} start with random "
            f"values, but is {training.frozen_epochs}. Use pretrained weights or training.start_from instead."
        )
    require_usable(model, training)
    for path in training.teachers:  # before the data is prepared
        if not path.is_file():
            raise ConfigError(
                f"training.teachers: there is no {path}. Train this model first, as docs/how-to/train.md describes for "
                "distillation, name another one, or set training.teachers=[]."
            )


def require_known_classes(config: Config, classes: ClassList) -> None:
    """Raises an error if the settings, the starting weights or the teachers do not fit the classes to learn.

    Raises:
        CheckpointError: A checkpoint cannot be read.
        ConfigError: Names the settings and the classes.
    """
    training = config.training
    if absent := set(training.leave_out) - set(range(len(classes))):
        raise ConfigError(
            f"training.leave_out: class {min(absent)} does not exist; the data has classes 0 to {len(classes) - 1}."
        )
    if training.start_from and (difference := classes.difference(load_checkpoint(training.start_from).classes)):
        raise ConfigError(
            f"The data and training.start_from={training.start_from} have different classes: {difference}. "
            "Start from a model of the same classes, or set training.start_from=null."
        )
    load_teachers(training, classes, torch.device("cpu"))


def initial_model(config: Config, classes: ClassList | None) -> Network:
    """Builds the model with its initial weights.

    Args:
        config: The complete configuration.
        classes: The class list. None, before the data is prepared: that of `training.start_from`, or any.
    """
    source = load_checkpoint(config.training.start_from) if config.training.start_from else None
    seed_everything(config.seed)
    known = classes or (source.classes if source else SIGNS)
    model = build_model(config.model, len(known))
    load_pretrained(model)
    if source:
        if source.saw_validation:
            raise ConfigError(
                f"training.start_from={config.training.start_from} is a final-fit model, so it was also trained on the "
                "validation images. Use best_model.pth in its run folder instead."
            )
        if seen := set(config.training.leave_out).difference(source.config["training"].get("leave_out", [])):
            raise ConfigError(
                f"training.leave_out: class {min(seen)} cannot be left out, because training.start_from="
                f"{config.training.start_from} was trained on it. Start from a model that left it out, too."
            )
        start_from(model, source.model)
    return model


def open_state(
    config: Config, device: torch.device, batches: Batches, classes: ClassList, fingerprint: str, folder: Path
) -> State:
    """Returns a new state, or the state in the folder if the run is resumed.

    Args:
        config: The complete configuration.
        device: The device to train on.
        batches: The training images.
        classes: Their class list.
        fingerprint: Fingerprint of the prepared data that they are from.
        folder: Folder of the run.
    """
    model = initial_model(config, classes).to(device).to(memory_format=torch.channels_last)
    labels = batches.arrays.labels
    weights = balanced_weights(labels[labels != OUTLIER], len(classes)) if config.training.class_weights else None
    teachers = load_teachers(config.training, classes, device)
    state = State(config, model, len(batches), fingerprint, classes, weights, teachers)
    # A run that was killed in its first epoch has no state yet, and starts from the beginning. Rank 0 decides for all
    # ranks: in a job with several machines, only its overrides contain training.resume.
    if distributed.from_rank_0(lambda: config.training.resume and (folder / LAST).is_file()):
        state.restore(distributed.from_rank_0(lambda: read_plain(folder / LAST)))
    return state


def fit(
    config: Config, batches: Batches, classes: ClassList, fingerprint: str, device: torch.device, folder: Path
) -> Network:
    """Trains a new model to the last epoch, without validation.

    Args:
        config: The complete configuration. With `training.resume`, the state in `folder` is continued if there is one.
        batches: The training images.
        classes: Their class list.
        fingerprint: Fingerprint of the prepared data that they are from.
        device: The device to train on.
        folder: Folder for the state and the metrics of the training.

    Returns:
        The network with its EMA weights, on the device.

    Raises:
        ConfigError: The folder cannot be written.
        TrainingError: The loss or a weight is not finite, or a file cannot be written.
    """
    distributed.from_rank_0(lambda: require_writable(folder))
    state = open_state(config, device, batches, classes, fingerprint, folder)
    with saving(folder):
        tracker = CsvTracker(folder, config, state.history) if distributed.rank() == 0 else None
    log = saving(folder)(tracker.log) if tracker else lambda _: None
    run_epochs(config, state, batches, None, folder, {}, log)
    network = cast(Network, state.averaged.module)
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise TrainingError(
            f"The weights of the training in {folder} are not finite after its last epoch. Lower training.optimizer.lr."
        )
    return network
