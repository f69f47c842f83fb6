"""Changes complete batches at random with tensor operations: pose, light, sharpness, occlusion.

A batch is changed with a few operations instead of image by image. This takes a small part of the time of a training
step. All random numbers come from the generator that the caller passes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from src.mlops.config import AugmentationConfig

OUTLIER = -1  # label of an image that shows none of the classes


def augment(
    images: Tensor,
    labels: Tensor,
    settings: AugmentationConfig,
    generator: Generator,
    size: int,
    mirrors: Tensor,
    leave_out: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Changes a batch at random and resizes it to the training size.

    Args:
        images: uint8 [N, 3, H, W].
        labels: int64 [N]; negative for images that show no class. These are not mirrored.
        settings: Strength of each change.
        generator: The only source of randomness, on the device of the images.
        size: Side of the result in px.
        mirrors: The class of each class's mirrored image, int64 [C]; -1 for classes that are never mirrored.
        leave_out: Classes that mirroring must not create.

    Returns:
        Float images [N, 3, size, size] with values 0 to 255, and labels [N]. The label changes if mirroring turns the
        image into one of another class.
    """
    draw = _Draw(len(images), generator, images.device)
    labels, flip = (
        _mirror(labels, mirrors, leave_out, draw) if settings.mirror else (labels, torch.ones_like(draw.uniform(0, 0)))
    )
    changed = _pose(images, settings, flip, draw, size)
    changed = _blur(changed, settings.blur, draw)
    changed = _light(changed, settings, draw)
    return _erase(changed, settings.erase, draw), labels


class _Draw:
    """Samples random numbers, one per image."""

    def __init__(self, count: int, generator: Generator, device: torch.device) -> None:
        self._count, self._generator, self._device = count, generator, device

    def uniform(self, low: float, high: float) -> Tensor:
        drawn = torch.rand(self._count, generator=self._generator, device=self._device)
        return low + (high - low) * drawn

    def factor(self, strength: float) -> Tensor:
        """Returns log-uniform numbers between 1/(1+strength) and 1+strength."""
        return torch.exp(self.uniform(-1, 1) * math.log1p(strength))

    def chance(self, probability: float) -> Tensor:
        return self.uniform(0, 1) < probability


def _mirror(labels: Tensor, mirrors: Tensor, leave_out: Sequence[int], draw: _Draw) -> tuple[Tensor, Tensor]:
    mirrored = torch.where(labels >= 0, mirrors[labels], -1)
    flipped = (mirrored >= 0) & draw.chance(0.5)
    if leave_out:
        flipped &= ~torch.isin(mirrored, torch.tensor(leave_out, device=labels.device))
    return torch.where(flipped, mirrored, labels), torch.where(flipped, -1.0, 1.0)


def _pose(images: Tensor, settings: AugmentationConfig, flip: Tensor, draw: _Draw, size: int) -> Tensor:
    """Samples each image through its own affine map (mirror, rotation, shear, scale, shift) at the new size."""
    angle = draw.uniform(-settings.rotation, settings.rotation) * (math.pi / 180)
    scale_x = draw.uniform(1 - settings.scale, 1 + settings.scale)
    scale_y = scale_x * draw.uniform(1 - settings.scale / 2, 1 + settings.scale / 2)
    shear_x = draw.uniform(-settings.shear, settings.shear)
    shear_y = draw.uniform(-settings.shear, settings.shear)
    shift_x = draw.uniform(-2 * settings.translation, 2 * settings.translation)  # the grid is two units wide
    shift_y = draw.uniform(-2 * settings.translation, 2 * settings.translation)
    cos, sin = torch.cos(angle), torch.sin(angle)
    affine = torch.stack(
        [
            torch.stack([flip * scale_x * (cos - shear_x * sin), scale_x * (shear_x * cos - sin), shift_x], dim=1),
            torch.stack([flip * scale_y * (sin + shear_y * cos), scale_y * (cos - shear_y * sin), shift_y], dim=1),
        ],
        dim=1,
    )
    # The same grid as from F.affine_grid, whose matrix product takes longer than the sampling itself.
    place = (2 * torch.arange(size, device=images.device) + 1) / size - 1
    across, down, shift = affine[:, None, None].unbind(dim=-1)
    grid = across * place.view(1, 1, size, 1) + (down * place.view(1, size, 1, 1) + shift)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def _blur(images: Tensor, probability: float, draw: _Draw) -> Tensor:
    """Blends some images with their 3x3 average, each by a random share."""
    chosen = draw.chance(probability).nonzero().squeeze(1)
    share = draw.uniform(0.2, 1.0)[chosen].view(-1, 1, 1, 1)
    sharp = images[chosen]
    averaged = _average(_average(sharp, 2), 3)
    return images.index_copy(0, chosen, torch.lerp(sharp, averaged, share))


def _average(images: Tensor, dim: int) -> Tensor:
    """Averages each pixel with its two neighbours along one dimension, ignoring neighbours beyond the edge."""
    size = images.shape[dim]
    total = images.clone()
    total.narrow(dim, 1, size - 1).add_(images.narrow(dim, 0, size - 1))
    total.narrow(dim, 0, size - 1).add_(images.narrow(dim, 1, size - 1))
    total.div_(3)
    for edge in (0, size - 1):
        total.select(dim, edge).mul_(3 / 2)
    return total


def _light(images: Tensor, settings: AugmentationConfig, draw: _Draw) -> Tensor:
    """Changes saturation, white balance, exposure, and contrast around each image's own mean.

    All changes are combined into one affine map of the three channels, so each pixel is computed once. Values are
    clipped as in a camera.
    """
    saturation = draw.uniform(1 - settings.saturation, 1 + settings.saturation / 2).clamp(min=0)
    gains = torch.stack([draw.factor(settings.white_balance) for _ in range(3)], dim=1)
    brightness = draw.factor(settings.brightness)
    contrast = draw.factor(settings.contrast)
    identity, grey = torch.eye(3, device=images.device), torch.full((3, 3), 1 / 3, device=images.device)
    colour = gains.view(-1, 3, 1) * torch.lerp(grey, identity, saturation.view(-1, 1, 1))
    mean = torch.bmm(colour, images.mean(dim=(2, 3)).unsqueeze(2)).mean(dim=1, keepdim=True)
    exposure = (brightness * contrast).view(-1, 1, 1)
    offset = (brightness * (1 - contrast)).view(-1, 1, 1) * mean
    changed = torch.baddbmm(offset, exposure * colour, images.flatten(2))
    return changed.view_as(images).clamp_(0, 255)


def _erase(images: Tensor, probability: float, draw: _Draw) -> Tensor:
    """Covers a random rectangle, 10 to 40 % of each side, with one grey level (Zhong et al. 2020)."""
    size = images.shape[-1]
    place = torch.arange(size, device=images.device).view(1, -1)
    inside = []
    for _ in range(2):
        length = draw.uniform(0.1, 0.4) * size
        start = draw.uniform(0, 1) * (size - length)
        inside.append((place >= start.view(-1, 1)) & (place < (start + length).view(-1, 1)))
    chosen = draw.chance(probability).view(-1, 1, 1, 1)
    covered = inside[0].view(-1, 1, size, 1) & inside[1].view(-1, 1, 1, size) & chosen
    return torch.where(covered, draw.uniform(0, 255).view(-1, 1, 1, 1), images)
