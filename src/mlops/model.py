"""The networks. All take images as they are packed and normalise them themselves.

`forward(images) -> logits`, `embed(images) -> embedding`: images are uint8 or float [N, 3, H, W] with values 0 to 255
and sides of at least 24 px; logits are float [N, 43]; the embedding is the last layer's input, float [N, D].
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from torch import Tensor, nn

from src.mlops.data.signs import NUM_CLASSES
from src.mlops.errors import ConfigError

# Added to the spread of an image's pixels (0 to 255), so that an almost black image is not all noise.
MIN_SPREAD = 4.0
# Normalised pixels are clipped here: a bright sky tells no more than that it is bright.
LIMIT = 4.0


class Normalize(nn.Module):
    """Pixels of 0 to 255 → zero mean and about unit variance in the middle of each image, float [N, 3, H, W].

    Each image by itself, over all channels: a sign in the dark then looks like the same sign in the sun, while its
    colours stay. Like the light meter of a camera it looks at the middle, three fifths of each side: a dark sign before
    a bright sky shows its picture too.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Normalises uint8 or float images."""
        pixels = images if images.is_floating_point() else images.float()
        height, width = pixels.shape[2:]
        top, left = height // 5, width // 5
        middle = pixels[:, :, top : height - top, left : width - left]
        mean = middle.mean(dim=(1, 2, 3), keepdim=True)
        spread = (middle - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return ((pixels - mean) / (spread + MIN_SPREAD)).clamp(-LIMIT, LIMIT)


class Network(nn.Module):
    """What all networks share: features, then dropout and one linear layer, the head."""

    features: nn.Sequential
    dropout: nn.Dropout
    head: nn.Linear

    @property
    def pooling(self) -> nn.AdaptiveAvgPool2d | None:
        """The averaging over places right before the head; None where another layer lies between."""
        last = self.features[-2]
        return last if isinstance(last, nn.AdaptiveAvgPool2d) else None

    def embed(self, images: Tensor) -> Tensor:
        """Returns the penultimate features, float [N, D]."""
        return cast(Tensor, self.features(images))

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits, float [N, 43]."""
        return cast(Tensor, self.head(self.dropout(self.embed(images))))


class SignNet(Network):
    """Small residual network in the manner of ResNet-9 (He et al. 2016; Page 2018).

    A 5x5 stem that halves the image, 3x3 convolutions with two residual pairs, and a 3x3 grid of averages that keeps
    where on the sign something is. With `width=24`: 0.30 M parameters, 25 MMAC at 48x48.

    Args:
        width: Channels after the stem; later stages have twice and four times as many.
        dropout: Share of features dropped before the last layer while training.
    """

    def __init__(self, width: int = 24, dropout: float = 0.2) -> None:
        super().__init__()
        if not (isinstance(width, int) and 4 <= width <= 256):
            raise ValueError(f"width is a whole number from 4 to 256, not {width!r}")
        self.features = nn.Sequential(
            Normalize(),
            _convolution(3, width, kernel_size=5, stride=2),
            _convolution(width, 2 * width),
            nn.MaxPool2d(2),
            _ResidualPair(2 * width),
            _convolution(2 * width, 4 * width),
            nn.MaxPool2d(2),
            _ResidualPair(4 * width),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(9 * 4 * width, NUM_CLASSES)


class TinyCNN(Network):
    """The classroom network: three convolutions with BatchNorm and max-pooling, and a hidden layer of 512 units.

    Args:
        dropout: Share of hidden units dropped while training.
    """

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        widths = (3, 32, 64, 128)
        blocks: list[nn.Module] = []
        for channels_in, channels_out in itertools.pairwise(widths):
            blocks += [_convolution(channels_in, channels_out), nn.MaxPool2d(2)]
        self.features = nn.Sequential(
            Normalize(),
            *blocks,
            nn.AdaptiveAvgPool2d(4),  # any input size gives the same number of features
            nn.Flatten(),
            nn.Linear(16 * widths[-1], 512),
            nn.ReLU(inplace=True),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(512, NUM_CLASSES)


class EfficientNetLite0(Network):
    """EfficientNet-Lite0, for transfer learning (Tan and Le 2019; the variant for phones, without squeeze-and-excite).

    Built with random weights; `pretrained.py` puts in those of ImageNet when a training starts. 3.4 M parameters.

    Args:
        weights: What a training starts from: `imagenet`, a file of this architecture's weights, or None.
        dropout: Share of the 1280 features dropped before the last layer while training.
    """

    def __init__(self, weights: str | None = "imagenet", dropout: float = 0.2) -> None:
        super().__init__()
        if not (weights is None or isinstance(weights, str)):
            raise TypeError(f"weights is a name, a path or null, not {weights!r}")
        self.weights = weights
        self.features = nn.Sequential(
            Normalize(),
            # No image size: it pads for the size that it is given instead of for one.
            _Lite0Maps.from_name("efficientnet-lite0", image_size=None, num_classes=NUM_CLASSES),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(1280, NUM_CLASSES)


class _Lite0Maps(EfficientNet):  # type: ignore[misc]
    """The library's network without its last layer."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        del self._fc

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.extract_features(images))


# A checkpoint names its model; nothing outside this list is ever built from a file.
MODELS: dict[str, type[Network]] = {
    "src.mlops.model.SignNet": SignNet,
    "src.mlops.model.TinyCNN": TinyCNN,
    "src.mlops.model.EfficientNetLite0": EfficientNetLite0,
}


def build_model(config: Mapping[str, Any]) -> Network:
    """Builds a network from the config group `model`.

    Args:
        config: `_target_`, a key of `MODELS`, and the arguments of that class.

    Returns:
        The network with fresh random weights, in training mode.

    Raises:
        ConfigError: The target is not in the list or does not take the arguments.
    """
    arguments = dict(config)
    target = arguments.pop("_target_", None)
    if not isinstance(target, str) or target not in MODELS:
        raise ConfigError(f"expected model._target_ to be one of {', '.join(MODELS)}, found {target!r}.")
    try:
        return MODELS[target](**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"expected arguments that {target} takes, found {arguments}: {error}.") from error


def count_parameters(model: nn.Module) -> int:
    """Returns the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def choose_device(name: str) -> torch.device:
    """Returns the device for `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        ConfigError: This machine has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if not available[name]:
        raise ConfigError(f"expected a device {name!r}, found none on this machine. Use device=auto or device=cpu.")
    return torch.device(name)


def predict_logits(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> NDArray[np.float32]:
    """Runs a model over batches of images and labels, on the device that it is on.

    Returns:
        Logits, float32 [N, 43], in order.
    """
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(images.to(device)).float().cpu() for images, _ in batches]).numpy()


def _convolution(channels_in: int, channels_out: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class _ResidualPair(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pair = nn.Sequential(_convolution(channels, channels), _convolution(channels, channels))

    def forward(self, images: Tensor) -> Tensor:
        return images + cast(Tensor, self.pair(images))
