"""One training from start to end: data, epochs, an optional final fit, the published model."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.mlops.config import Config
from src.mlops.data.classes import ClassList
from src.mlops.data.dataset import Batches
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.packing import Pack, SplitArrays, stack, without
from src.mlops.data.prepare import prepare, prepare_drawn
from src.mlops.data.sketch import members, overlap, sketch, sketch_of_training
from src.mlops.errors import ConfigError, TrainingError
from src.mlops.io.files import write_atomically
from src.mlops.model import Network, build_model, choose_device, count_parameters
from src.mlops.modelfile.calibration import warn_about_coverage
from src.mlops.modelfile.checkpoint import load_checkpoint, provenance, read_plain, write_content
from src.mlops.modelfile.onnx_export import export
from src.mlops.training import distributed
from src.mlops.training.optimizer import balanced_weights, require_usable
from src.mlops.training.plots import draw_learning_curves
from src.mlops.training.pretrained import has_pretrained_features, load_pretrained
from src.mlops.training.pruning import start_from
from src.mlops.training.run_dir import (
    BEST,
    FINAL_FIT,
    LAST,
    alone,
    log_file,
    open_run_dir,
    require_writable,
    saving,
)
from src.mlops.training.tracking import CsvTracker, Tracker, require_tracking, start_tracking
from src.mlops.training.train_loop import State, run_epochs, seed_everything

logger = logging.getLogger(__name__)
STEPS = 64  # per epoch that are enough for small data sets


def train(config: Config, on_epoch: Callable[[dict[str, float]], object] | None = None) -> dict[str, float]:
    """Trains a model and writes the best checkpoint to `config.ckpt_path`.

    Args:
        config: The complete configuration.
        on_epoch: Called with the metrics of each epoch. An exception that it raises ends the training.

    Returns:
        The metrics of the best epoch, with the keys of `metrics.csv`.

    Raises:
        DataError: There are no images to train on, or they cannot be read.
        CheckpointError: The checkpoint to start from, or the state of a resumed run, cannot be read.
        ConfigError: The model, the optimiser or a folder cannot be used as configured.
        TrainingError: The loss is not finite, or a file cannot be written. The best checkpoint so far stays in the
            folder of the run.
    """
    # Invalid settings are reported before the data is prepared, and before hours of training.
    device = choose_device(config.device)
    require_tracking(config)
    _require_usable(config)
    with distributed.process_group(device):
        if config.training.publish:
            distributed.from_rank_0(lambda: require_writable(config.ckpt_path.parent))
        pack = distributed.first_on_each_node(lambda: prepare(config.data))
        _require_known_classes(config, pack.classes)
        settings = config.training.drawn
        drawn = distributed.first_on_each_node(lambda: prepare_drawn(config.data, settings)) if settings else None
        run_dir = distributed.from_rank_0(lambda: open_run_dir(config))
        first = distributed.rank() == 0
        with alone(run_dir, enabled=first), log_file(run_dir / "train.log", enabled=first):
            return _train(config, pack, drawn, device, run_dir, on_epoch or (lambda _: None))


def _require_usable(config: Config) -> None:
    """Raises an error if settings that are valid on their own cannot be used together."""
    training = config.training
    largest = max((side for side, _ in training.size_schedule), default=0)
    if largest > config.data.image_size:
        raise ConfigError(
            f"training.size_schedule has {largest:g} px, but the images only have data.image_size="
            f"{config.data.image_size} px. Use smaller sizes, or training.size_schedule=[]."
        )
    if training.batch_size < distributed.processes():
        raise ConfigError(
            f"training.batch_size must be at least the number of processes, {distributed.processes()}, but is "
            f"{training.batch_size}."
        )
    for path in (config.ckpt_path, config.ckpt_path.with_suffix(".onnx")):
        if training.publish and path.is_dir():
            raise ConfigError(f"Cannot write the model to {path}, because it is a folder. Set another ckpt_path.")
    model = _initial_model(config, None)
    if model.dropout.p >= 1:
        raise ConfigError("model.dropout must be below 1, but is 1; the last layer would get no features.")
    if training.frozen_epochs and not training.start_from and not has_pretrained_features(model):
        raise ConfigError(
            f"training.frozen_epochs must be 0, because the features of {type(model).__name__} start with random "
            f"values, but is {training.frozen_epochs}. Use pretrained weights or training.start_from instead."
        )
    require_usable(model, training)


def _require_known_classes(config: Config, classes: ClassList) -> None:
    """Raises an error if the settings and the starting weights do not fit the classes of the data."""
    training = config.training
    if absent := set(training.leave_out) - set(range(len(classes))):
        raise ConfigError(
            f"training.leave_out: class {min(absent)} does not exist; the data has classes 0 to {len(classes) - 1}."
        )
    if training.drawn and classes.difference(SIGNS):
        raise ConfigError(
            "training.drawn must be null, because only the signs of GTSRB can be drawn, and the data has other classes."
        )
    _initial_model(config, classes)


def _train(
    config: Config,
    pack: Pack,
    drawn: Pack | None,
    device: torch.device,
    run_dir: Path,
    on_epoch: Callable[[dict[str, float]], object],
) -> dict[str, float]:
    leave_out = config.training.leave_out
    batches = _training_batches(config, without(pack.load("train"), leave_out), drawn)
    validation = Batches(without(pack.load("val"), leave_out), config.evaluation.batch_size, shard=distributed.shard())
    earlier = _earlier_sketch(config, pack, validation.arrays)
    images = len(batches.arrays.rows)
    if config.training.augmentation.mirror and not any(entry.mirror is not None for entry in pack.classes):
        logger.info("No image is mirrored, because classes.csv names no mirrored classes, see docs/data.md")
    _suggest_batch_size(config.training.batch_size, images)
    state = _open_state(config, device, batches, pack, run_dir)
    logger.info(
        "Training %s (%s parameters) on %s images of %d classes, validating on %s images, device %s, run folder %s",
        type(state.model).__name__,
        f"{count_parameters(state.model):,}",
        f"{images:,}",
        len(pack.classes) - len(leave_out),
        f"{len(validation.arrays.rows):,}",
        f"{distributed.world_size()} x {device.type}" if distributed.world_size() > 1 else device.type,
        run_dir,
    )
    if distributed.rank() == 0:
        warn_about_coverage(len(validation.arrays.rows), config.calibration.coverage)
    origin = provenance(pack.fingerprint, config.seed, _image_sketch(batches.arrays, earlier))
    with saving(run_dir):
        tracker = start_tracking(run_dir, config, state.history) if distributed.rank() == 0 else None

    def log(metrics: dict[str, float]) -> None:
        if tracker:
            with saving(run_dir):
                tracker.log(metrics)
        on_epoch(metrics)

    try:
        run_epochs(config, state, batches, validation, run_dir, origin, log)
        final = None
        if config.training.final_fit:
            everything = without(pack.load("train", "val"), leave_out)
            batches = _training_batches(config, everything, drawn)
            weights = _fit_all(config, batches, pack, device, run_dir / FINAL_FIT, origin)
            final = weights, _image_sketch(batches.arrays, earlier)
        if tracker:
            _publish(config, state, run_dir, tracker, final)
    except KeyboardInterrupt:
        kept = f"the best model is {run_dir / BEST}" if state.history else "no model was saved"
        logger.info("Stopped by Ctrl-C after %d epochs; %s. Resume with training.resume=true", state.epoch, kept)
        raise
    finally:
        if tracker:
            tracker.finish()
    return state.best


def _suggest_batch_size(batch_size: int, images: int) -> None:
    """Logs a smaller batch size if the data set is so small that an epoch has few steps, see docs/own-data.md."""
    better = 16 * max(round(images / STEPS / 16), 1)
    if batch_size > 2 * better:
        logger.warning(
            "training.batch_size=%d is large for %d training images. training.batch_size=%d takes longer, but has more "
            "steps, which often gives a better model",
            batch_size,
            images,
            better,
        )


def _initial_model(config: Config, classes: ClassList | None) -> Network:
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
        if difference := known.difference(source.classes):
            raise ConfigError(
                f"The data and training.start_from={config.training.start_from} have different classes: {difference}. "
                "Start from a model of the same classes, or set training.start_from=null."
            )
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


def _training_batches(config: Config, arrays: SplitArrays, drawn: Pack | None) -> Batches:
    """Returns batches of the training images, and of all synthetic images if there are any."""
    if drawn:
        arrays = stack(arrays, drawn.load("train", "val", "test"))
    return Batches(arrays, config.training.batch_size, seed=config.seed, shard=distributed.shard())


def _open_state(config: Config, device: torch.device, batches: Batches, pack: Pack, folder: Path) -> State:
    """Returns a new state, or the state in the folder if the run is resumed."""
    model = _initial_model(config, pack.classes).to(device).to(memory_format=torch.channels_last)
    weights = balanced_weights(batches.arrays.labels, len(pack.classes)) if config.training.class_weights else None
    state = State(config, model, len(batches), pack.fingerprint, pack.classes, weights)
    # A run that was killed in its first epoch has no state yet, and starts from the beginning. Rank 0 decides for all
    # ranks: in a job with several machines, only its overrides contain training.resume.
    if distributed.from_rank_0(lambda: config.training.resume and (folder / LAST).is_file()):
        state.restore(distributed.from_rank_0(lambda: read_plain(folder / LAST)))
    return state


def _earlier_sketch(config: Config, pack: Pack, validation: SplitArrays) -> str | None:
    """Returns the sketch of the images that `training.start_from` was trained on; None if they cannot be known."""
    path = config.training.start_from
    if not path:
        return ""
    earlier = sketch_of_training(load_checkpoint(path).provenance, pack)
    if earlier is None:
        logger.warning("%s may have been trained on images that are now used for validation", path)
    elif overlap(earlier, validation.hashes).is_large:
        raise ConfigError(
            f"training.start_from={path} was trained on images that are now used for validation, so the validation "
            "would be too optimistic. Use the data.split.seed of its training."
        )
    return earlier


def _image_sketch(arrays: SplitArrays, earlier: str | None) -> str | None:
    return None if earlier is None else sketch([*members(earlier), *arrays.hashes])


def _fit_all(
    config: Config, batches: Batches, pack: Pack, device: torch.device, folder: Path, origin: dict[str, Any]
) -> dict[str, Tensor]:
    """Trains a new model on training and validation images; returns its EMA weights after the last epoch."""
    distributed.from_rank_0(lambda: require_writable(folder))
    state = _open_state(config, device, batches, pack, folder)
    logger.info("Final fit on all %s images, without validation, folder %s", f"{len(batches.arrays.rows):,}", folder)
    with saving(folder):
        tracker = CsvTracker(folder, config, state.history) if distributed.rank() == 0 else None
    log = saving(folder)(tracker.log) if tracker else lambda _: None
    run_epochs(config, state, batches, None, folder, origin, log)
    weights = {name: tensor.detach().cpu() for name, tensor in state.averaged.module.state_dict().items()}
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise TrainingError(
            f"The weights of the final fit are not finite, so {config.ckpt_path} is unchanged. Lower "
            "training.optimizer.lr."
        )
    return weights


def _publish(
    config: Config, state: State, run_dir: Path, tracker: Tracker, final: tuple[dict[str, Tensor], str | None] | None
) -> None:
    """Adds the history of all epochs to the best checkpoint, and writes it to `config.ckpt_path`.

    After a final fit, the checkpoint has the new weights, but keeps metrics and calibration of the validated model:
    measured on training images, they would be optimistically biased. `final` has its weights and image sketch.
    """
    path = run_dir / BEST
    content = read_plain(path) | {"history": state.history}
    with saving(run_dir):
        write_content(path, content)
        if final is not None:
            path = run_dir / FINAL_FIT / BEST
            weights, image_sketch = final
            content["provenance"] |= {"trained_on": ["train", "val"], "image_sketch": image_sketch}
            content |= {"state_dict": weights, "epoch": config.training.epochs, "config": config.to_dict()}
            write_content(path, content)
        if config.training.publish:
            # The export is finished before the first file is replaced, to reduce the risk that a kill leaves two files
            # that do not match.
            files = [path, *([export(path, opset=config.export.opset)] if config.training.export else [])]
            for file in files:
                write_atomically(config.ckpt_path.with_suffix(file.suffix), file.read_bytes())
        figure = run_dir / "figures" / "learning_curves.png"
        draw_learning_curves(state.history, figure)
        tracker.log_figure(figure)
    best = state.best
    logger.info(
        "Best epoch %d: val accuracy %.4f, val F1 %.4f. Training: %.0f s, of which %.1f%% data loading. Model: %s",
        best["epoch"],
        best["val_Accuracy"],
        best["val_F1"],
        state.seconds_training,
        100 * state.seconds_preparing / max(state.seconds_training, 1e-9),
        config.ckpt_path if config.training.publish else path,
    )
