"""The training loop: state, epochs, steps and validation."""

import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from src.mlops.config import Config, TrainingConfig
from src.mlops.data.augment import augment
from src.mlops.data.classes import ClassList
from src.mlops.data.dataset import Batches
from src.mlops.errors import CheckpointError, ConfigError, TrainingError
from src.mlops.io.progress import progress_bar
from src.mlops.model import Network, predict_logits
from src.mlops.modelfile.calibration import Calibration
from src.mlops.modelfile.checkpoint import save_checkpoint, write_content
from src.mlops.modelfile.metadata import FORMAT_VERSION
from src.mlops.training import distributed
from src.mlops.training.loss import Loss
from src.mlops.training.metrics import classification_metrics
from src.mlops.training.optimizer import average_weights, build_optimizer
from src.mlops.training.profiling import PROFILED_STEPS, profiler
from src.mlops.training.run_dir import BEST, LAST, saving
from src.mlops.training.schedules import build_scheduler, epochs_at_full_size, size_of_epoch

logger = logging.getLogger(__name__)
# The validation accuracy on the images of the data, and on drawings of signs that the data does not have.
VAL_DATA, VAL_DRAWN = "val_Accuracy_data", "val_Accuracy_drawn"
_CHECK_INTERVAL = 20  # steps between two checks of the loss; each check synchronises the GPU
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries use this global state
    torch.manual_seed(seed)


@dataclass
class State:
    """The state that changes during training. `last.pth` stores it, and a resumed run restores it.

    Attributes:
        config: The complete configuration.
        model: The network in training, on its device.
        steps_per_epoch: Optimiser steps per epoch.
        data_fingerprint: Fingerprint of the training data.
        classes: The class list.
        class_weights: Weight of each class in the loss, float32 [C]; None if all are equal.
        teachers: The networks that this one learns from.
        epoch: Number of finished epochs.
        history: Metrics of the finished epochs.
        seconds: Duration of the finished epochs in seconds, including validation.
        seconds_training: Part of `seconds` for training steps.
        seconds_preparing: Part of `seconds_training` for loading and augmenting batches.
    """

    config: Config
    model: Network
    steps_per_epoch: int
    data_fingerprint: str
    classes: ClassList
    class_weights: Tensor | None = None
    teachers: Sequence[Network] = ()
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    seconds_training: float = 0.0
    seconds_preparing: float = 0.0

    def __post_init__(self) -> None:
        training = self.config.training
        self.device = next(self.model.parameters()).device
        self.mirrors = torch.tensor(self.classes.mirrors, device=self.device)
        weights = self.class_weights
        self.loss = Loss(training, None if weights is None else weights.to(self.device), self.teachers)
        self.optimizer = build_optimizer(self.model, training)
        self.scheduler = build_scheduler(self.optimizer, training, self.steps_per_epoch)
        self.averaged = average_weights(self.model, training.ema_decay)
        # fp16 cannot represent small gradients, so they are scaled up.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=training.precision == "fp16")
        self.forward = self._prepare_forward()

    @property
    def best(self) -> dict[str, float]:
        """The metrics of the best epoch: highest validation accuracy, then lowest validation loss."""
        return max(self.history, key=lambda row: (row["val_Accuracy"], -row["val_loss"]))

    @property
    def epochs_without_gain(self) -> int:
        """Number of epochs since the best one."""
        return self.epoch - int(self.best["epoch"]) if self.history else 0

    def start_epoch(self) -> None:
        """Puts the model into training mode, but keeps frozen features in evaluation mode.

        Pretrained features are frozen first, because a new classification head gives them random gradients (Kornblith
        et al. 2019).
        """
        frozen = self.epoch < self.config.training.frozen_epochs
        parameters = list(self.model.features.parameters())
        if parameters[0].requires_grad == frozen:
            for parameter in parameters:
                parameter.requires_grad_(not frozen)
            self.forward = self._prepare_forward()  # DistributedDataParallel needs to know which gradients to share
        self.model.train()
        self.model.features.train(not frozen)

    def _prepare_forward(self) -> Callable[[Tensor], Tensor]:
        shared = distributed.share_gradients(self.model)
        return torch.compile(shared) if self.config.training.compile else shared

    def to_dict(self) -> dict[str, Any]:
        """Returns the state as tensors and plain values."""
        return {
            "format_version": FORMAT_VERSION,
            "config": self.config.to_dict(),
            "data_fingerprint": self.data_fingerprint,
            "classes": self.classes.to_dicts(),
            "processes": distributed.world_size(),
            "epoch": self.epoch,
            "history": self.history,
            "seconds": [self.seconds, self.seconds_training, self.seconds_preparing],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "averaged": self.averaged.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, stored: dict[str, Any]) -> None:
        """Restores a state from `to_dict`.

        Raises:
            ConfigError: The state is from a run with other settings or other data.
            CheckpointError: The state is incomplete.
        """
        try:
            changed = [*self._changes(stored["config"])]
            self._require_same_epochs(stored)
            if stored["format_version"] != FORMAT_VERSION:
                changed.append("the format version")
            if stored["data_fingerprint"] != self.data_fingerprint:
                changed.append("the data")
            # The state of an earlier release has no class list; its fingerprint is enough.
            if "classes" in stored and stored["classes"] != self.classes.to_dicts():
                changed.append("the classes")
            if stored["processes"] != distributed.world_size():
                changed.append("the number of processes")
            if changed:
                raise ConfigError(
                    f"Cannot resume the run, because the following has changed since its start: {', '.join(changed)}. "
                    "Start a new run instead."
                )
            self.epoch, self.history = stored["epoch"], stored["history"]
            self.seconds, self.seconds_training, self.seconds_preparing = stored["seconds"]
            for name in ("model", "optimizer", "scheduler", "averaged", "scaler"):
                getattr(self, name).load_state_dict(stored[name])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"{LAST} is not a valid state of a run: {error!r}. Start a new run.") from error

    def _changes(self, stored: dict[str, Any]) -> Iterator[str]:
        """Yields the settings that differ and change the epochs that are finished."""
        mine = self.config.to_dict()
        for section in ("model", "training", "calibration"):
            for key in mine[section].keys() | stored[section].keys():
                if key in {"resume", "publish", "export", "profile", "final_fit", "early_stopping", "epochs"}:
                    continue
                value = mine[section].get(key)
                # A setting that an earlier release did not have was off.
                if value != stored[section].get(key) and (value or key in stored[section]):
                    yield f"{section}.{key}"
        if mine["seed"] != stored["seed"]:
            yield "seed"

    def _require_same_epochs(self, stored: dict[str, Any]) -> None:
        """Raises an error if a run with the new number of epochs would have had other epochs so far."""
        training, epochs = self.config.training, stored["config"]["training"]["epochs"]
        if training.epochs == epochs:
            return
        before = training.model_copy(update={"epochs": epochs})
        side = self.config.data.image_size
        sizes = [[size_of_epoch(epoch, one, side) for epoch in range(stored["epoch"])] for one in (training, before)]
        if training.schedule != "constant" or sizes[0] != sizes[1] or training.epochs < stored["epoch"]:
            raise ConfigError(
                f"Cannot resume a run of {epochs} epochs with training.epochs={training.epochs}, because this would "
                f"change the {stored['epoch']} finished epochs. To train its model further, start a new run with "
                f"training.start_from=…/{BEST} from the folder of the run."
            )


def _is_over(state: State, training: TrainingConfig) -> bool:
    """Returns whether early stopping ends the training."""
    # Validation images have full size, so epochs with smaller training images say little about the model.
    waited = min(state.epochs_without_gain, epochs_at_full_size(state.epoch, training))
    return 0 < training.early_stopping <= waited


def run_epochs(
    config: Config,
    state: State,
    batches: Batches,
    validation: Batches | None,
    run_dir: Path,
    provenance: dict[str, Any],
    log: Callable[[dict[str, float]], Any],
    of_data: int | None = None,
) -> None:
    """Trains to the last epoch or until early stopping; saves the best checkpoint and the state after each epoch.

    Without validation images, it runs all epochs and saves only the state.

    Args:
        config: The complete configuration.
        state: The state to continue.
        batches: The training images.
        validation: The validation images; None: there are none.
        run_dir: Folder of the run.
        provenance: Origin of the model, for the checkpoint.
        log: Called with the metrics of each epoch.
        of_data: Number of validation images of the data, which come before the drawings of further signs; None: all.

    Raises:
        TrainingError: The loss is not finite.
    """
    training = config.training
    first_epoch = state.epoch
    if training.profile and len(batches) < PROFILED_STEPS:
        logger.warning(
            "training.profile=true writes nothing, because it needs %d steps per epoch, but there are %d",
            PROFILED_STEPS,
            len(batches),
        )
    while state.epoch < training.epochs:
        if validation is not None and _is_over(state, training):
            logger.info("No better validation accuracy in %d epochs, stopping early", training.early_stopping)
            break
        started = time.perf_counter()
        profiled = training.profile and state.epoch == first_epoch and distributed.rank() == 0
        folder = run_dir / "profile" if profiled else None
        row = {"epoch": state.epoch + 1, **_train_epoch(config, state, batches, folder)}
        seconds = time.perf_counter() - started
        distributed.share_buffers(state.averaged.module)  # rank 0 saves the buffers that all ranks validate
        if validation is not None:
            logits = predict_logits(state.averaged.module, validation.epoch())
            logits = distributed.gather_rows(logits, np.concatenate(list(validation.order(0))))
            row |= _validation_metrics(logits, validation.arrays.labels, of_data)
        state.seconds += time.perf_counter() - started
        state.epoch += 1
        state.history.append({**row, "seconds": round(state.seconds, 3)})
        calibration = None  # fitted only for a new best epoch
        if validation is not None and state.epochs_without_gain == 0:
            calibration = Calibration.fit(logits, validation.arrays.labels, **config.calibration.model_dump())
        if distributed.rank() == 0:
            _save(state, run_dir, calibration, provenance)
        log(state.history[-1])
        shown = ("train_loss", "train_Accuracy", "val_loss", "val_Accuracy", "val_F1")
        values = "  ".join(
            f"{key.replace('_', ' ').replace('Acc', 'acc')} {row[key]:.4f}" for key in shown if key in row
        )
        best = "  (best)" if calibration else ""
        logger.info("Epoch %d/%d  %s  %.1f s%s", state.epoch, training.epochs, values, seconds, best)


def _save(state: State, run_dir: Path, calibration: Calibration | None, provenance: dict[str, Any]) -> None:
    """Writes the best checkpoint if there is a calibration for it, and then the state."""
    with saving(run_dir):
        if calibration:
            save_checkpoint(
                run_dir / BEST,
                state_dict=state.averaged.module.state_dict(),
                config=state.config.to_dict(),
                classes=state.classes,
                epoch=state.epoch,
                metrics=state.best,
                provenance=provenance,
                calibration=calibration,
                history=state.history,
            )
        # Written last: a run that is killed between both writes repeats the epoch and writes the same checkpoint again.
        write_content(run_dir / LAST, state.to_dict())


def _train_epoch(config: Config, state: State, batches: Batches, profile: Path | None) -> dict[str, float]:
    """Runs one epoch; returns loss and accuracy on its augmented batches."""
    training, device = config.training, state.device
    size = size_of_epoch(state.epoch, training, batches.image_size)
    # Seeded per epoch, so that a resumed run uses the same random numbers as an uninterrupted one.
    epoch_seed = int(np.random.SeedSequence([config.seed, state.epoch, distributed.rank()]).generate_state(1)[0])
    seed_everything(epoch_seed)
    generator = torch.Generator(device).manual_seed(epoch_seed)
    totals = torch.zeros(3, device=device)  # loss, correct, images
    state.start_epoch()
    started = ready = time.perf_counter()
    description = f"Epoch {state.epoch + 1}/{training.epochs} at {size} px"
    with progress_bar(description, len(batches)) as bar, profiler(profile) if profile else nullcontext() as measured:
        for step, (images, labels) in enumerate(batches.epoch(state.epoch), start=1):
            changed, classes = augment(
                *(images.to(device), labels.to(device), training.augmentation, generator, size),
                *(state.mirrors, training.leave_out),
            )
            state.seconds_preparing += time.perf_counter() - ready
            totals += train_step(state, changed, classes)
            if measured:
                measured.step()
            if step % _CHECK_INTERVAL == 0 or step == len(batches):
                mean_loss, accuracy = _means(totals, state.epoch, step)
                images_done = min(step * batches.batch_size, len(batches.arrays.rows))
                speed = images_done / (time.perf_counter() - started)
                bar.set_postfix_str(
                    f"loss {mean_loss:.3f}, accuracy {accuracy:.3f}, {speed:,.0f} images/s", refresh=False
                )
            bar.update()
            ready = time.perf_counter()
    state.seconds_training += ready - started
    return {"train_loss": mean_loss, "train_Accuracy": accuracy}


def train_step(state: State, images: Tensor, labels: Tensor) -> Tensor:
    """Runs one step of the optimiser; returns summed loss, correct predictions and number of images, float [3]."""
    training = state.config.training
    with torch.autocast(state.device.type, _DTYPES[training.precision], enabled=training.precision != "fp32"):
        images = images.contiguous(memory_format=torch.channels_last)
        loss, correct = state.loss(state.forward(images), images, labels)
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    scale = state.scaler.get_scale()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.scaler.get_scale() >= scale:  # otherwise fp16 overflowed and the step was skipped
        state.scheduler.step()
    state.averaged.update_parameters(state.model)
    with torch.no_grad():
        return torch.stack([loss * len(labels), correct, torch.tensor(len(labels), device=loss.device)])


def _means(totals: Tensor, epoch: int, step: int) -> tuple[float, float]:
    """Returns the mean loss and accuracy over all images so far and all processes."""
    loss, correct, images = distributed.sum_over_ranks(totals.clone()).tolist()
    if not math.isfinite(loss):
        raise TrainingError(
            f"The loss must be finite, but is {loss} in epoch {epoch + 1} at step {step}. The checkpoints of earlier "
            "epochs are kept. Lower training.optimizer.lr, or check the images."
        )
    return loss / images, correct / images


def _validation_metrics(
    logits: NDArray[np.float32], labels: NDArray[np.int64], of_data: int | None
) -> dict[str, float]:
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    if not math.isfinite(loss):
        raise TrainingError(f"The validation loss must be finite, but is {loss}. Lower training.optimizer.lr.")
    predicted = logits.argmax(axis=1)
    scores = classification_metrics(labels, predicted)
    row = {"val_loss": loss} | {f"val_{name}": value for name, value in scores.items()}
    if of_data not in (None, len(labels)):
        right = predicted == labels
        row |= {VAL_DATA: float(right[:of_data].mean()), VAL_DRAWN: float(right[of_data:].mean())}
    return row
