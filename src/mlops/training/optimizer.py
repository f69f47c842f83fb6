"""The optimiser, the weights of the classes in the loss, and the EMA weights."""

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from src.mlops.config import TrainingConfig
from src.mlops.errors import ConfigError
from src.mlops.training.schedules import build_scheduler

Tensors = tuple[Tensor, ...] | list[Tensor]


def build_optimizer(model: nn.Module, training: TrainingConfig) -> Optimizer:
    """Returns the optimiser that `training.optimizer._target_` names, with weight decay on weights only.

    Raises:
        ConfigError: The target is not an optimiser of torch, or does not accept the arguments.
    """
    settings = dict(training.optimizer)
    target = str(settings.get("_target_"))
    module, _, name = target.rpartition(".")
    kind = getattr(torch.optim, name, None)
    if module != "torch.optim" or not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise ConfigError(f"training.optimizer._target_ must be an optimiser of torch.optim, but is {target!r}.")
    # Weight decay pulls values towards zero. This helps the weights of a layer, but not biases and scales.
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    del settings["_target_"]
    if kind in (Adam, AdamW, SGD) and not {"foreach", "differentiable"} & settings.keys():
        settings.setdefault("fused", True)  # one kernel for all weights; these optimisers support it on any device
    for name, parameter in inspect.signature(kind).parameters.items():
        value = settings.get(name, False)
        if isinstance(parameter.default, bool) and not isinstance(value, bool):  # torch takes any text as true
            raise ConfigError(f"training.optimizer: {name} must be true or false, but is {value!r}.")
    try:
        return kind(groups, **settings)
    except Exception as error:  # torch raises many types of errors
        reason = str(error).rstrip(".")
        raise ConfigError(
            f"training.optimizer: {target} does not accept the arguments {settings}: {reason}."
        ) from error


def require_usable(model: nn.Module, training: TrainingConfig) -> None:
    """Checks the optimiser and the schedule with one step, because some arguments fail only in a step.

    Args:
        model: Changed by the step.
        training: Settings of the optimiser and the schedule.

    Raises:
        ConfigError: The optimiser cannot be built, or cannot train this model.
    """
    optimizer = build_optimizer(model, training)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    try:
        build_scheduler(optimizer, training, steps_per_epoch=2)
        optimizer.step()
    except Exception as error:  # torch raises many types of errors
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ConfigError(
            f"training.optimizer: {training.optimizer} cannot train this model: {reason}. Use another optimiser, such "
            "as torch.optim.AdamW, or other arguments."
        ) from error


def balanced_weights(labels: NDArray[np.int64], num_classes: int) -> Tensor:
    """Returns weights for the loss that give all classes the same influence, however many images they have.

    The weight of a class is N / (K n), with N images of K classes and n of this class (King and Zeng, "Logistic
    regression in rare events data", 2001). That of a class without images is 0.

    Args:
        labels: Class ids of the training images, int64 [N].
        num_classes: Number of classes, C.

    Returns:
        Weights, float32 [C].
    """
    present = np.unique(labels)
    weights = torch.zeros(num_classes)
    found = compute_class_weight("balanced", classes=present, y=labels)
    weights[torch.from_numpy(present)] = torch.from_numpy(found).float()
    return weights


def average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """Returns an exponential moving average of a model's weights and buffers (Polyak and Juditsky 1992).

    The decay rises from 0.1 to its final value with the number of steps. The random initial weights would otherwise
    dominate the average of a short training.

    Args:
        model: The model that is trained.
        decay: Share of the average that each step keeps. With 0, the average equals the model.
    """

    def average(averaged: Tensors, current: Tensors, steps: Tensor | int) -> None:
        if not averaged[0].is_floating_point():  # the counters of BatchNorm; torch groups the tensors by type
            torch._foreach_copy_(averaged, current)
            return
        steps = int(steps)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + steps) / (10 + steps)))

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
