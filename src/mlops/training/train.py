"""One training from start to end: data, epochs, an optional final fit, the published model."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from src.mlops.config import Config
from src.mlops.data.additional import TrainingData, classes_to_learn, prepare_training
from src.mlops.data.dataset import Batches
from src.mlops.data.packing import Pack, SplitArrays, stack
from src.mlops.data.prepare import prepare
from src.mlops.data.sketch import members, overlap, sketch, sketch_of_training
from src.mlops.errors import ConfigError
from src.mlops.io.files import sha256, write_atomically
from src.mlops.model import choose_device, count_parameters
from src.mlops.modelfile.calibration import warn_about_coverage
from src.mlops.modelfile.checkpoint import load_checkpoint, provenance, read_plain, write_content
from src.mlops.modelfile.onnx_export import export
from src.mlops.training import distributed
from src.mlops.training.fit import fit, open_state, require_known_classes, require_trainable
from src.mlops.training.plots import draw_learning_curves
from src.mlops.training.run_dir import (
    BEST,
    FINAL_FIT,
    alone,
    log_file,
    open_run_dir,
    require_writable,
    saving,
)
from src.mlops.training.tracking import Tracker, require_tracking, start_tracking
from src.mlops.training.train_loop import VAL_DATA, VAL_DRAWN, State, run_epochs

logger = logging.getLogger(__name__)

OnEpoch = Callable[[dict[str, float]], object]
OnExport = Callable[[Path, Pack], object]


def train(config: Config, on_epoch: OnEpoch | None = None, on_export: OnExport | None = None) -> dict[str, float]:
    """Trains a model and writes the best checkpoint to `config.ckpt_path`.

    Args:
        config: The complete configuration.
        on_epoch: Called with the metrics of each epoch. An exception that it raises ends the training.
        on_export: Called with the exported file and the data before the file is published; may change the file.

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
    require_trainable(config)
    with distributed.process_group(device):
        if config.training.publish:
            distributed.from_rank_0(lambda: require_writable(config.ckpt_path.parent))
        pack = distributed.first_on_each_node(lambda: prepare(config.data))
        require_known_classes(config, classes_to_learn(pack.classes, config.training.drawn))
        data = distributed.first_on_each_node(lambda: prepare_training(config, pack))
        run_dir = distributed.from_rank_0(lambda: open_run_dir(config))
        first = distributed.rank() == 0
        with alone(run_dir, enabled=first), log_file(run_dir / "train.log", enabled=first):
            noted, described = on_epoch or (lambda _: None), on_export or (lambda _, __: None)
            return _train(config, data, device, run_dir, noted, described)


def _train(
    config: Config, data: TrainingData, device: torch.device, run_dir: Path, on_epoch: OnEpoch, on_export: OnExport
) -> dict[str, float]:
    pack = data.pack
    arrays = data.training_images("train")
    batch_size = max(config.training.batch_size_for(len(arrays.rows)), distributed.processes())
    config = config.replace({"training.batch_size": batch_size})  # the files of the run record it
    batches = _batches(config, arrays)
    known, further = data.load("val"), data.further("val")
    held_out = known if further is None else stack(known, further)
    validation = Batches(held_out, config.evaluation.batch_size, shard=distributed.shard())
    start_from = config.training.start_from
    earlier = _earlier_sketch("start_from", start_from, pack, validation.arrays) if start_from else ""
    for teacher in config.training.teachers:
        _earlier_sketch("teachers", teacher, pack, validation.arrays)
    if config.training.augmentation.mirror and not any(entry.mirror is not None for entry in data.classes):
        logger.info("No image is mirrored, because no class has a mirrored class, see docs/reference/data.md")
    state = open_state(config, device, batches, data.classes, data.fingerprint, run_dir)
    logger.info(
        "Training %s (%s parameters) on %s images of %d classes in batches of %d, validating on %s images, device %s, "
        "run folder %s",
        type(state.model).__name__,
        f"{count_parameters(state.model):,}",
        f"{len(arrays.rows):,}",
        len(data.classes) - len(data.leave_out),
        batch_size,
        f"{len(validation.arrays.rows):,}",
        f"{distributed.world_size()} x {device.type}" if distributed.world_size() > 1 else device.type,
        run_dir,
    )
    if distributed.rank() == 0:
        warn_about_coverage(len(validation.arrays.rows), config.calibration.coverage)
    origin = provenance(pack.fingerprint, config.seed, _image_sketch(batches.arrays, earlier))
    if data.collected:
        origin["collected_fingerprint"] = data.collected.fingerprint
    if drawn_classes := data.drawn_classes(synthetic=config.data.source == "synthetic"):
        origin["drawn_classes"] = drawn_classes
    if data.drawn and further:
        origin["drawn_fingerprint"] = data.drawn.fingerprint
    if data.outliers:
        origin["outliers_fingerprint"] = data.outliers.fingerprint
    if config.training.teachers:
        origin["teachers"] = [sha256(path) for path in config.training.teachers]
    with saving(run_dir):
        tracker = start_tracking(run_dir, config, state.history) if distributed.rank() == 0 else None

    def log(metrics: dict[str, float]) -> None:
        if tracker:
            with saving(run_dir):
                tracker.log(metrics)
        on_epoch(metrics)

    try:
        run_epochs(config, state, batches, validation, run_dir, origin, log, len(known.rows))
        final = None
        if config.training.final_fit:
            batches = _batches(config, data.training_images("train", "val"))
            images = f"{len(batches.arrays.rows):,}"
            logger.info("Final fit on all %s images, without validation, folder %s", images, run_dir / FINAL_FIT)
            network = fit(config, batches, data.classes, data.fingerprint, device, run_dir / FINAL_FIT)
            # EMA weights after the last epoch.
            weights = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
            final = weights, _image_sketch(batches.arrays, earlier)
        if tracker:
            _publish(config, state, run_dir, tracker, final, lambda file: on_export(file, pack))
            if further:
                _report_further(state.best, len(known.rows), len(further.rows), len(data.classes) - len(pack.classes))
    except KeyboardInterrupt:
        kept = f"the best model is {run_dir / BEST}" if state.history else "no model was saved"
        logger.info("Stopped by Ctrl-C after %d epochs; %s. Resume with training.resume=true", state.epoch, kept)
        raise
    finally:
        if tracker:
            tracker.finish()
    return state.best


def _report_further(best: dict[str, float], known: int, further: int, classes: int) -> None:
    """Logs the two parts of the validation accuracy, because only one of them was measured on the data."""
    logger.info(
        "Val accuracy of the best epoch: %.4f on %s images of the data, %.4f on %s drawings of the %d signs that the "
        "data does not have. It is unproven how well photographs of these are classified",
        best[VAL_DATA],
        f"{known:,}",
        best[VAL_DRAWN],
        f"{further:,}",
        classes,
    )


def _batches(config: Config, arrays: SplitArrays) -> Batches:
    batch_size = config.training.batch_size_for(len(arrays.rows))
    return Batches(arrays, batch_size, seed=config.seed, shard=distributed.shard())


def _earlier_sketch(key: str, path: Path, pack: Pack, validation: SplitArrays) -> str | None:
    """Returns the sketch of the images that an earlier model was trained on; None if they cannot be known."""
    earlier = sketch_of_training(load_checkpoint(path).provenance, pack)
    if earlier is None:
        logger.warning("%s may have been trained on images that are now used for validation", path)
    elif overlap(earlier, validation.hashes).is_large:
        raise ConfigError(
            f"training.{key}: {path} was trained on images that are now used for validation, so the validation would "
            "be too optimistic. Use the data.split.seed of its training."
        )
    return earlier


def _image_sketch(arrays: SplitArrays, earlier: str | None) -> str | None:
    return None if earlier is None else sketch([*members(earlier), *arrays.hashes])


def _publish(
    config: Config,
    state: State,
    run_dir: Path,
    tracker: Tracker,
    final: tuple[dict[str, Tensor], str | None] | None,
    on_export: Callable[[Path], object],
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
            files = [path]
            if config.training.export:
                files.append(export(path, opset=config.export.opset, complete=on_export))
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
