"""Trains a model: `python -m src.mlops.train`, or `train(config)` from Python."""

import logging
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from src.mlops import ROOT
from src.mlops.calibration import Calibration
from src.mlops.checkpoint import provenance, read_plain, save_checkpoint, write_atomically
from src.mlops.config import Config, hydra_main
from src.mlops.data.augment import augment
from src.mlops.data.dataset import Batches
from src.mlops.data.prepare import prepare
from src.mlops.errors import ConfigError, TrainingError
from src.mlops.metrics import classification_metrics
from src.mlops.model import build_model, choose_device, count_parameters, predict_logits
from src.mlops.optimization import average_weights, build_optimizer, build_scheduler, size_of_epoch
from src.mlops.progress import ProgressBar
from src.mlops.tracking import Tracker, start_tracking
from src.mlops.visualize import draw_learning_curves

logger = logging.getLogger(__name__)
BEST = "best_model.pth"
LAST = "last.pth"
RUNS = ROOT / "models" / "runs"
_CHECK_INTERVAL = 20  # steps between two looks at the loss; each makes a GPU wait


def train(config: Config) -> dict[str, float]:
    """Trains a model from start to end and puts the best one at `config.ckpt_path`.

    Args:
        config: The whole configuration.

    Returns:
        The metrics of the best epoch, under the keys of `metrics.csv`.

    Raises:
        DataError: There is nothing to train on.
        ConfigError: Model or optimiser cannot be built as configured.
        TrainingError: The loss is no longer a number. The best checkpoint so far stays in the run's folder.
    """
    device = choose_device(config.device)
    seed_everything(config.seed)
    pack = prepare(config.data)
    batches = Batches(pack.load("train"), config.training.batch_size, seed=config.seed)
    validation = Batches(pack.load("val"), config.evaluation.batch_size)
    model = build_model(config.model).to(device).to(memory_format=torch.channels_last)
    state = _State(config, model, len(batches))
    run_dir = _open_run_dir(config)
    _require_writable(config.ckpt_path.parent)
    if config.training.resume:
        state.restore(read_plain(run_dir / LAST))

    with _log_file(run_dir / "train.log"):
        logger.info(
            "training %s (%s parameters) on %s images, validating on %s, on %s; run folder %s",
            type(model).__name__,
            f"{count_parameters(model):,}",
            f"{len(batches.arrays.rows):,}",
            f"{len(validation.arrays.rows):,}",
            device.type,
            run_dir,
        )
        origin = provenance(pack.fingerprint, config.seed)
        tracker = start_tracking(run_dir, config, state.history)
        try:
            _run_epochs(config, state, batches, validation, run_dir, origin, tracker.log)
            return _publish(config, state, run_dir, tracker)
        except KeyboardInterrupt:
            kept = f"its best is {run_dir / BEST}" if state.history else "before the first epoch was done"
            logger.info("stopped by Ctrl-C after %d epochs: %s; resume with training.resume=true", state.epoch, kept)
            raise
        finally:
            tracker.finish()


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - what is seeded is the global state that libraries draw from
    torch.manual_seed(seed)


@dataclass
class _State:
    """All that changes while training: what `last.pth` holds and resuming restores."""

    config: Config
    model: nn.Module
    steps_per_epoch: int
    epoch: int = 0  # epochs done
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    seconds_preparing: float = 0.0  # of them spent on gathering and augmenting batches

    def __post_init__(self) -> None:
        training = self.config.training
        self.optimizer = build_optimizer(self.model, training)
        self.scheduler = build_scheduler(self.optimizer, training, self.steps_per_epoch)
        self.averaged = average_weights(self.model, training.ema_decay)

    @property
    def best(self) -> dict[str, float]:
        """The metrics of the best epoch: highest validation accuracy, then lowest validation loss."""
        return max(self.history, key=lambda row: (row["val_Accuracy"], -row["val_loss"]))

    def to_dict(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "epoch": self.epoch,
            "history": self.history,
            "seconds": [self.seconds, self.seconds_preparing],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "averaged": self.averaged.state_dict(),
        }

    def restore(self, stored: dict[str, Any]) -> None:
        mine, theirs = self.config.to_dict(), stored["config"]
        changed = [key for key in ("model", "data", "seed") if mine[key] != theirs[key]]
        changed += [
            f"training.{key}"
            for key, value in mine["training"].items()
            if key != "resume" and value != theirs["training"].get(key)
        ]
        if changed:
            raise ConfigError(f"expected the settings that the run began with, found others for {', '.join(changed)}.")
        self.epoch, self.history = stored["epoch"], stored["history"]
        self.seconds, self.seconds_preparing = stored["seconds"]
        self.model.load_state_dict(stored["model"])
        self.optimizer.load_state_dict(stored["optimizer"])
        self.scheduler.load_state_dict(stored["scheduler"])
        self.averaged.load_state_dict(stored["averaged"])


def _run_epochs(
    config: Config,
    state: _State,
    batches: Batches,
    validation: Batches,
    run_dir: Path,
    origin: dict[str, Any],
    log: Callable[[dict[str, float]], None],
) -> None:
    training = config.training
    while state.epoch < training.epochs:
        if training.early_stopping and state.history and state.epoch - state.best["epoch"] >= training.early_stopping:
            logger.info("no better validation accuracy in %d epochs: stopping early", training.early_stopping)
            break
        train_metrics, seconds = _train_epoch(config, state, batches)
        logits, labels = predict_logits(state.averaged.module, validation.epoch()), validation.arrays.labels
        state.epoch += 1
        row = {"epoch": state.epoch, **train_metrics, **_validation_metrics(logits, labels)}
        state.history.append(row)
        is_best = state.best is row
        if is_best:
            save_checkpoint(
                run_dir / BEST,
                state_dict=state.averaged.module.state_dict(),
                config=config.to_dict(),
                epoch=state.epoch,
                metrics=row,
                provenance=origin,
                calibration=Calibration.fit(logits, labels),
                history=state.history,
            )
        # Last, since a run that is killed between the two repeats the epoch, and writes the same best again.
        write_atomically(run_dir / LAST, state.to_dict())
        log(row)
        logger.info(
            "epoch %d/%d  loss %.4f  accuracy %.4f  val loss %.4f  val accuracy %.4f  val F1 %.4f  %.1f s%s",
            state.epoch,
            training.epochs,
            row["train_loss"],
            row["train_Accuracy"],
            row["val_loss"],
            row["val_Accuracy"],
            row["val_F1"],
            seconds,
            "  (best)" if is_best else "",
        )


def _train_epoch(config: Config, state: _State, batches: Batches) -> tuple[dict[str, float], float]:
    """Runs one epoch; returns loss and accuracy on its augmented batches, and its seconds."""
    training, model = config.training, state.model
    device = next(model.parameters()).device
    size = size_of_epoch(state.epoch, training, batches.image_size)
    # Seeded by epoch, so that a resumed run draws what the uninterrupted one would have drawn.
    epoch_seed = int(np.random.SeedSequence([config.seed, state.epoch]).generate_state(1)[0])
    seed_everything(epoch_seed)
    generator = torch.Generator(device).manual_seed(epoch_seed)
    totals = torch.zeros(3, device=device)  # loss, correct, images
    preparing = 0.0
    model.train()
    started = ready = time.perf_counter()
    with ProgressBar(f"epoch {state.epoch + 1}/{training.epochs} at {size} px", len(batches)) as bar:
        for step, (raw_images, raw_labels) in enumerate(batches.epoch(state.epoch), start=1):
            images, labels = augment(
                raw_images.to(device), raw_labels.to(device), training.augmentation, generator, size
            )
            preparing += time.perf_counter() - ready
            logits = model(images.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, labels, label_smoothing=training.label_smoothing)
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            state.optimizer.step()
            state.scheduler.step()
            state.averaged.update_parameters(model)
            with torch.no_grad():
                correct = (logits.argmax(1) == labels).sum()
                totals += torch.stack([loss * len(labels), correct.float(), torch.tensor(len(labels), device=device)])
            if step % _CHECK_INTERVAL == 0 or step == len(batches):
                mean_loss, accuracy = (totals[:2] / totals[2]).tolist()
                if not math.isfinite(mean_loss):
                    raise TrainingError(
                        f"expected a finite loss, found {mean_loss} in epoch {state.epoch + 1} at step {step}. Nothing "
                        "was saved since the last good epoch. Lower training.optimizer.lr, or look at the images."
                    )
                speed = step * config.training.batch_size / (time.perf_counter() - started)
                bar.show(step, f"loss {mean_loss:.3f}  accuracy {accuracy:.3f}  {speed:,.0f} images/s")
            ready = time.perf_counter()
    seconds = ready - started
    state.seconds += seconds
    state.seconds_preparing += preparing
    return {"train_loss": mean_loss, "train_Accuracy": accuracy}, seconds


def _validation_metrics(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    if not math.isfinite(loss):
        raise TrainingError(f"expected a finite validation loss, found {loss}. Lower training.optimizer.lr.")
    scores = classification_metrics(labels, logits.argmax(axis=1))
    return {"val_loss": loss} | {f"val_{name}": value for name, value in scores.items()}


def _publish(config: Config, state: _State, run_dir: Path, tracker: Tracker) -> dict[str, float]:
    """Puts the best checkpoint, now with the history of all epochs, at `config.ckpt_path`; returns its metrics."""
    content = read_plain(run_dir / BEST) | {"history": state.history}
    write_atomically(run_dir / BEST, content)
    write_atomically(config.ckpt_path, content)
    figure = run_dir / "figures" / "learning_curves.png"
    draw_learning_curves(state.history, figure)
    tracker.log_figure(figure)
    best = state.best
    logger.info(
        "best epoch %d: val accuracy %.4f, val F1 %.4f; %.0f s of training, %.1f %% of them preparing batches; %s",
        best["epoch"],
        best["val_Accuracy"],
        best["val_F1"],
        state.seconds,
        100 * state.seconds_preparing / max(state.seconds, 1e-9),
        config.ckpt_path,
    )
    return best


def _open_run_dir(config: Config) -> Path:
    """Returns the run's folder: a new one, or with `training.resume` the one to go on in."""
    if config.training.resume:
        runs = [config.run_dir] if config.run_dir else sorted(RUNS.glob("*"), reverse=True)
        for run_dir in runs:
            if (run_dir / LAST).is_file():
                return run_dir
        raise ConfigError(f"expected a run to resume with a {LAST} in {config.run_dir or RUNS}, found none.")
    name = datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    wanted = [config.run_dir] if config.run_dir else [RUNS / name, *(RUNS / f"{name}_{n}" for n in range(2, 1000))]
    for run_dir in wanted:
        try:
            run_dir.mkdir(parents=True, exist_ok=bool(config.run_dir))
        except FileExistsError:
            continue  # another run of the same second
        except OSError as error:
            raise ConfigError(f"expected a folder to write the run to, found {run_dir}: {error}.") from error
        if (run_dir / LAST).exists():
            raise ConfigError(
                f"expected a new run_dir, found a finished or broken-off run in {run_dir}. Name another "
                "folder, or go on with training.resume=true."
            )
        _require_writable(run_dir)
        return run_dir
    raise ConfigError(f"expected a free name for the run in {RUNS}, found none.")


def _require_writable(folder: Path) -> None:
    """Finds out before hours of training that their result could not be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"expected a writable folder, found {folder}: {error}.") from error


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    package = logging.getLogger("src.mlops")
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    package.addHandler(handler)
    level = package.level
    package.setLevel(logging.INFO)  # also where nobody set logging up
    try:
        yield
    finally:
        package.setLevel(level)
        package.removeHandler(handler)
        handler.close()


if __name__ == "__main__":
    hydra_main(train)
