"""The loss: cross-entropy, with outlier exposure and distillation where they are configured."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.mlops.config import TrainingConfig
from src.mlops.data.augment import OUTLIER
from src.mlops.data.classes import ClassList
from src.mlops.errors import ConfigError
from src.mlops.model import Network
from src.mlops.modelfile.checkpoint import load_checkpoint

# The logits of the teachers are divided by this value, and have this share of the loss (Hinton et al. 2015).
TEMPERATURE = 2.0
TEACHERS_SHARE = 0.7


class Loss:
    """Computes the loss of a batch.

    With outliers, the softmax has one more class for unknown things, whose logit is always 0. Its probability is then
    1 / (1 + Σ exp(logit)), a function of the energy alone, so the training pushes the energy of known signs down and
    that of unknown things up. The network itself does not change. (With a learned threshold instead of 0, and a
    squared hinge, this is the energy-bounded learning of Liu et al., "Energy-based Out-of-distribution Detection",
    2020.)

    With teachers, the network also learns the mean of the probabilities of other networks on the same augmented images
    of known signs: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.

    Args:
        training: The settings.
        class_weights: Weight of each class, float32 [C]; None if all are equal.
        teachers: The networks to learn from, in evaluation mode.
    """

    def __init__(self, training: TrainingConfig, class_weights: Tensor | None, teachers: Sequence[nn.Module]) -> None:
        self._training = training
        self._teachers = teachers
        self._weights = class_weights
        if class_weights is not None and training.outliers:
            self._weights = F.pad(class_weights, (0, 1), value=1.0)

    def __call__(self, logits: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the mean loss and the number of correct images.

        Args:
            logits: Float [N, C].
            images: The augmented images, float [N, 3, H, W], for the teachers.
            labels: Class ids, int64 [N]; `OUTLIER` for unknown things.
        """
        scores = self._scores(logits)
        targets = torch.where(labels == OUTLIER, logits.shape[1], labels)
        smoothing = self._training.label_smoothing
        loss = F.cross_entropy(scores, targets, weight=self._weights, label_smoothing=smoothing)
        if self._teachers:
            # The teachers may take an outlier for a sign, but its label is certain.
            known = labels != OUTLIER
            distilled = self._distilled(scores[known], images[known])
            certain = F.cross_entropy(scores[~known], targets[~known], label_smoothing=smoothing, reduction="sum")
            loss = (1 - TEACHERS_SHARE) * loss + TEACHERS_SHARE * (distilled + certain) / len(labels)
        return loss, (scores.argmax(1) == targets).sum()

    def _distilled(self, scores: Tensor, images: Tensor) -> Tensor:
        """Returns the sum of the cross-entropies with the teachers' probabilities."""
        with torch.no_grad():
            softened = [F.softmax(self._scores(one(images)) / TEMPERATURE, dim=1) for one in self._teachers]
        wanted = torch.stack(softened).mean(dim=0)
        # The gradients of soft targets are smaller by the squared temperature.
        return F.cross_entropy(scores / TEMPERATURE, wanted, reduction="sum") * TEMPERATURE**2

    def _scores(self, logits: Tensor) -> Tensor:
        """Returns the logits, with outliers also that of the unknown things."""
        return F.pad(logits.float(), (0, 1)) if self._training.outliers else logits.float()


def load_teachers(training: TrainingConfig, classes: ClassList, device: torch.device) -> list[Network]:
    """Loads the networks to learn from.

    Returns:
        The networks of `training.teachers`, in evaluation mode.

    Raises:
        CheckpointError: A file is not a valid checkpoint.
        ConfigError: A network has other classes, was also trained on the validation images, knows a class to leave out,
            or takes outliers for signs.
    """
    return [_load_teacher(path, training, classes, device) for path in training.teachers]


def _load_teacher(path: Path, training: TrainingConfig, classes: ClassList, device: torch.device) -> Network:
    checkpoint = load_checkpoint(path)
    if difference := classes.difference(checkpoint.classes):
        raise ConfigError(
            f"training.teachers: {path} has other classes than the data: {difference}. Use models of the same classes, "
            "or set training.teachers=[]."
        )
    if checkpoint.saw_validation:
        raise ConfigError(
            f"training.teachers: {path} is a final-fit model, so it was also trained on the validation images. Use "
            "best_model.pth in its run folder instead."
        )
    if seen := set(training.leave_out).difference(checkpoint.config["training"].get("leave_out", [])):
        raise ConfigError(
            f"training.leave_out: class {min(seen)} cannot be left out, because {path} in training.teachers was "
            "trained on it. Use teachers that left it out, too."
        )
    if training.outliers and not checkpoint.config["training"].get("outliers"):
        raise ConfigError(
            f"training.teachers: {path} was trained without outliers, so it takes those of training.outliers for "
            "signs. Use teachers that were trained with outliers, or set training.outliers=null."
        )
    return checkpoint.model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(requires_grad=False)
