"""Trains a model: `python -m src.mlops.train`, or `train(config)` from Python.

Several processes: `torchrun --nproc-per-node 2 -m src.mlops.train …`, see `distributed.py`.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.mlops import distributed
from src.mlops.checkpoint import load_checkpoint, provenance, read_plain, write_content
from src.mlops.config import Config, hydra_main
from src.mlops.data.dataset import Batches
from src.mlops.data.packing import Pack, SplitArrays, stack, without
from src.mlops.data.prepare import prepare, prepare_drawn
from src.mlops.errors import CheckpointError, ConfigError, TrainingError
from src.mlops.export import export
from src.mlops.files import write_atomically
from src.mlops.loop import State, run_epochs, seed_everything
from src.mlops.model import Network, build_model, choose_device, count_parameters
from src.mlops.optimization import build_optimizer
from src.mlops.pretrained import load_pretrained
from src.mlops.pruning import start_from
from src.mlops.run_folder import BEST, FINAL_FIT, LAST, alone, log_file, open_run_dir, require_writable
from src.mlops.tracking import CsvTracker, Tracker, start_tracking
from src.mlops.visualize import draw_learning_curves

logger = logging.getLogger("src.mlops.train")  # not __main__, so that the run's log file has it too


def train(config: Config, on_epoch: Callable[[dict[str, float]], object] | None = None) -> dict[str, float]:
    """Trains a model from start to end and puts the best one at `config.ckpt_path`.

    Args:
        config: The whole configuration.
        on_epoch: Called with the metrics of each epoch; what it raises ends the training.

    Returns:
        The metrics of the best epoch, under the keys of `metrics.csv`.

    Raises:
        DataError: There is nothing to train on.
        ConfigError: Model, optimiser or folders cannot be used as configured.
        TrainingError: The loss is no longer a number. The best checkpoint so far stays in the run's folder.
    """
    # What can be refused is refused before data is prepared, and before hours of training.
    device = choose_device(config.device)
    build_optimizer(_initial_model(config), config.training)
    with distributed.process_group(device):
        distributed.from_rank_0(lambda: require_writable(config.ckpt_path.parent))
        pack = distributed.first_on_each_node(lambda: prepare(config.data))
        settings = config.training.drawn
        drawn = distributed.first_on_each_node(lambda: prepare_drawn(config.data, settings)) if settings else None
        run_dir = distributed.from_rank_0(lambda: open_run_dir(config))
        try:
            first = distributed.rank() == 0
            with alone(run_dir, enabled=first), log_file(run_dir / "train.log", enabled=first):
                return _train(config, pack, drawn, device, run_dir, on_epoch or (lambda _: None))
        except (OSError, CheckpointError) as error:
            fault = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(fault, OSError):
                raise
            raise TrainingError(
                f"expected to write to {run_dir}, found: {fault}. What was saved before is still there; make room "
                "and go on with training.resume=true."
            ) from error


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
    state = _open_state(config, device, len(batches), pack.fingerprint, run_dir)
    logger.info(
        "training %s (%s parameters) on %s images, validating on %s, on %s; run folder %s",
        type(state.model).__name__,
        f"{count_parameters(state.model):,}",
        f"{len(batches.arrays.rows):,}",
        f"{len(validation.arrays.rows):,}",
        f"{distributed.world_size()} x {device.type}" if distributed.world_size() > 1 else device.type,
        run_dir,
    )
    origin = provenance(pack.fingerprint, config.seed)
    tracker = start_tracking(run_dir, config, state.history) if distributed.rank() == 0 else None

    def log(metrics: dict[str, float]) -> None:
        if tracker:
            tracker.log(metrics)
        on_epoch(metrics)

    try:
        run_epochs(config, state, batches, validation, run_dir, origin, log)
        final = (
            _fit_all(config, pack, drawn, device, run_dir / FINAL_FIT, origin) if config.training.final_fit else None
        )
        if tracker:
            _publish(config, state, run_dir, tracker, final)
    except KeyboardInterrupt:
        kept = f"its best is {run_dir / BEST}" if state.history else "before the first epoch was done"
        logger.info("stopped by Ctrl-C after %d epochs: %s; resume with training.resume=true", state.epoch, kept)
        raise
    finally:
        if tracker:
            tracker.finish()
    return state.best


def _initial_model(config: Config) -> Network:
    seed_everything(config.seed)
    model = build_model(config.model)
    load_pretrained(model)
    if config.training.start_from:
        source = load_checkpoint(config.training.start_from)
        if source.saw_validation:
            raise ConfigError(
                "expected training.start_from to be a model that has not seen the validation images, found a final "
                f"fit at {config.training.start_from}. Start from its run's own best_model.pth."
            )
        start_from(model, source.model)
    return model


def _training_batches(config: Config, arrays: SplitArrays, drawn: Pack | None) -> Batches:
    """Returns images to train on, with all drawn ones beside them where there are any."""
    if drawn:
        arrays = stack(arrays, drawn.load("train", "val", "test"))
    return Batches(arrays, config.training.batch_size, seed=config.seed, shard=distributed.shard())


def _open_state(config: Config, device: torch.device, steps_per_epoch: int, fingerprint: str, folder: Path) -> State:
    """Returns a new state, or when resuming the one in the folder."""
    model = _initial_model(config).to(device).to(memory_format=torch.channels_last)
    state = State(config, model, steps_per_epoch, fingerprint)
    # A run that was killed in its first epoch has no state yet, and begins again. The first process decides for
    # all: in a job of several machines only its overrides say that there is one.
    if distributed.from_rank_0(lambda: config.training.resume and (folder / LAST).is_file()):
        state.restore(distributed.from_rank_0(lambda: read_plain(folder / LAST)))
    return state


def _fit_all(
    config: Config, pack: Pack, drawn: Pack | None, device: torch.device, folder: Path, origin: dict[str, Any]
) -> dict[str, Tensor]:
    """Trains anew on training and validation images together; returns the averaged weights of the last epoch."""
    batches = _training_batches(config, without(pack.load("train", "val"), config.training.leave_out), drawn)
    distributed.from_rank_0(lambda: folder.mkdir(exist_ok=True))
    state = _open_state(config, device, len(batches), pack.fingerprint, folder)
    logger.info("final fit on all %s images, without validation; folder %s", f"{len(batches.arrays.rows):,}", folder)
    log = CsvTracker(folder, config, state.history).log if distributed.rank() == 0 else lambda _: None
    run_epochs(config, state, batches, None, folder, origin, log)
    weights = {name: tensor.detach().cpu() for name, tensor in state.averaged.module.state_dict().items()}
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise TrainingError(f"expected finite weights of the final fit, found others; {config.ckpt_path} is untouched.")
    return weights


def _publish(config: Config, state: State, run_dir: Path, tracker: Tracker, final: dict[str, Tensor] | None) -> None:
    """Completes the best checkpoint with the history of all epochs and puts it at `config.ckpt_path`.

    With the weights of a final fit, metrics and calibration stay those of the validated model: images that were
    trained on could only flatter.
    """
    path = run_dir / BEST
    content = read_plain(path) | {"history": state.history}
    write_content(path, content)
    if final is not None:
        path = run_dir / FINAL_FIT / BEST
        content["provenance"]["trained_on"] = ["train", "val"]
        content |= {"state_dict": final, "epoch": config.training.epochs, "config": config.to_dict()}
        write_content(path, content)
    if config.training.publish:
        # Both are ready before the first is replaced, so that a kill leaves no pair that does not belong together.
        files = [path, *([export(path)] if config.training.export else [])]
        for file in files:
            write_atomically(config.ckpt_path.with_suffix(file.suffix), file.read_bytes())
    figure = run_dir / "figures" / "learning_curves.png"
    draw_learning_curves(state.history, figure)
    tracker.log_figure(figure)
    best = state.best
    logger.info(
        "best epoch %d: val accuracy %.4f, val F1 %.4f; %.0f s of training, %.1f %% of them preparing batches; %s",
        best["epoch"],
        best["val_Accuracy"],
        best["val_F1"],
        state.seconds_training,
        100 * state.seconds_preparing / max(state.seconds_training, 1e-9),
        config.ckpt_path if config.training.publish else path,
    )


if __name__ == "__main__":
    hydra_main(train)
