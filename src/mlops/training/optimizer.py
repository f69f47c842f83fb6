"""Optimiser, learning rate, averaged weights and image size over the course of a training."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel

from src.mlops.config import TrainingConfig
from src.mlops.errors import ConfigError

Tensors = tuple[Tensor, ...] | list[Tensor]


def build_optimizer(model: nn.Module, training: TrainingConfig) -> Optimizer:
    """Builds the optimiser that `training.optimizer._target_` names, with weight decay on weights alone.

    Raises:
        ConfigError: The target is no optimiser of torch, or does not take the arguments.
    """
    settings = dict(training.optimizer)
    target = str(settings.get("_target_"))
    module, _, name = target.rpartition(".")
    kind = getattr(torch.optim, name, None)
    if module != "torch.optim" or not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise ConfigError(f"expected training.optimizer._target_ to be a class of torch.optim, found {target!r}.")
    # Decay pulls towards zero, which means something for the weights of a layer, not for offsets and scales.
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    del settings["_target_"]
    if kind in (Adam, AdamW, SGD) and not {"foreach", "differentiable"} & settings.keys():
        settings.setdefault("fused", True)  # one operation for all weights; these can on any device
    try:
        return kind(groups, **settings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"expected arguments that {target} takes, found {settings}: {error}.") from error


def size_of_epoch(epoch: int, training: TrainingConfig, image_size: int) -> int:
    """Returns the side in px of the images that an epoch trains at.

    Small images first make the early epochs cheap (progressive resizing, Howard 2018).

    Args:
        epoch: Counted from 0.
        training: Its `size_schedule` and `epochs`.
        image_size: Side of the packed images.
    """
    end = 0
    for size, share in training.size_schedule:
        end += round(share * training.epochs)
        if epoch < end:
            return min(size, image_size)
    return image_size


def build_scheduler(optimizer: Optimizer, training: TrainingConfig, steps_per_epoch: int) -> LRScheduler:
    """Builds the learning rate's course over all steps: one cycle (Smith 2018), or constant."""
    if training.schedule == "constant":
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
    return OneCycleLR(
        optimizer,
        max_lr=training.optimizer["lr"],
        total_steps=training.epochs * steps_per_epoch,
        pct_start=training.warmup,
        cycle_momentum="betas" in optimizer.defaults or "momentum" in optimizer.defaults,
    )


def average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """Returns an exponential moving average of a model's weights and buffers (Polyak and Juditsky 1992).

    The decay rises from 0.1 to its value with the number of steps, so that a short training is not held back by its
    random start.

    Args:
        model: The model that is trained.
        decay: Share of the average that each step keeps; 0 follows the model exactly.
    """

    def average(averaged: Tensors, current: Tensors, steps: Tensor | int) -> None:
        if not averaged[0].is_floating_point():  # counters of BatchNorm; tensors come grouped by type
            torch._foreach_copy_(averaged, current)
            return
        steps = int(steps)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + steps) / (10 + steps)))

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
