"""Schedules of the learning rate and the image size over a training."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from src.mlops.config import SMALLEST_SIDE, TrainingConfig


def build_scheduler(optimizer: Optimizer, training: TrainingConfig, steps_per_epoch: int) -> LRScheduler:
    """Returns the learning rate schedule over all steps: one cycle (Smith 2018), or constant.

    One cycle also lowers the momentum while the learning rate rises, unless the settings contain a momentum.
    """
    if training.schedule == "constant":
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
    return OneCycleLR(
        optimizer,
        max_lr=training.optimizer["lr"],
        total_steps=training.epochs * steps_per_epoch,
        pct_start=training.warmup,
        cycle_momentum=not {"betas", "momentum"} & training.optimizer.keys()
        and ("betas" in optimizer.defaults or "momentum" in optimizer.defaults),
    )


def size_of_epoch(epoch: int, training: TrainingConfig, image_size: int) -> int:
    """Returns the side in px of the training images in an epoch.

    Small images make the early epochs cheap (progressive resizing, Howard 2018).

    Args:
        epoch: Counted from 0.
        training: `size_schedule` and `epochs` are used.
        image_size: Side of the packed images.
    """
    end = 0
    for side, share in training.size_schedule:
        end += round(share * training.epochs)
        if epoch < end:
            return max(round(side * image_size), SMALLEST_SIDE) if side <= 1 else round(side)
    return image_size


def epochs_at_full_size(epoch: int, training: TrainingConfig) -> int:
    """Returns how many of the first `epoch` epochs were trained with images of full size.

    Args:
        epoch: Number of finished epochs.
        training: `size_schedule` and `epochs` are used.
    """
    return max(0, epoch - sum(round(share * training.epochs) for _, share in training.size_schedule))
