"""The networks. They take packed images, and normalise the pixels in their first layer.

`forward(images) -> logits`, `embed(images) -> embedding`: images are uint8 or float [N, 3, H, W] with values 0 to 255
and sides of at least 24 px; logits are float [N, C], with C the number of classes; the embedding is the last layer's
input, float [N, D].
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from torch import Tensor, nn

from src.mlops.errors import ConfigError

# Added to the standard deviation of the pixels (0 to 255). It limits the amplified noise in almost black images.
MIN_SPREAD = 4.0
# Normalised pixels are clipped at this value, because brighter backgrounds carry no further information.
LIMIT = 4.0


class Normalize(nn.Module):
    """Scales pixels of 0 to 255 to zero mean and about unit variance, float [N, 3, H, W].

    Mean and variance are computed per image over all channels. This compensates for exposure and keeps the colours.
    Only the central three fifths of each side are measured, so a bright background does not affect a dark object.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Normalises uint8 or float images, [N, 3, H, W]."""
        pixels = images if images.is_floating_point() else images.float()
        height, width = pixels.shape[2:]
        top, left = height // 5, width // 5
        middle = pixels[:, :, top : height - top, left : width - left]
        mean = middle.mean(dim=(1, 2, 3), keepdim=True)
        spread = (middle - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return ((pixels - mean) / (spread + MIN_SPREAD)).clamp(-LIMIT, LIMIT)


class Network(nn.Module):
    """Base class of the networks: features, then dropout and one linear layer, the head."""

    features: nn.Sequential
    dropout: nn.Dropout
    head: nn.Linear

    @property
    def pooling(self) -> nn.AdaptiveAvgPool2d | None:
        """Returns the pooling layer directly before the head; None if another layer is between them."""
        last = self.features[-2]
        return last if isinstance(last, nn.AdaptiveAvgPool2d) else None

    def embed(self, images: Tensor) -> Tensor:
        """Returns the features before the head, float [N, D]."""
        return cast(Tensor, self.features(images))

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits, float [N, C]."""
        return cast(Tensor, self.head(self.dropout(self.embed(images))))


class SignNet(Network):
    """Small residual network similar to ResNet-9 (He et al. 2016; Page 2018).

    It has a 5x5 stem with stride 2, 3x3 convolutions with two residual pairs, and 3x3 average pooling, which keeps
    coarse positions on the sign. With `width=24`: 0.30 M parameters, 25 MMAC at 48x48.

    Args:
        num_classes: Number of classes, C.
        width: Channels after the stem; later stages have twice and four times as many.
        dropout: Share of features dropped before the last layer during training.
    """

    def __init__(self, num_classes: int, width: int = 24, dropout: float = 0.2) -> None:
        super().__init__()
        if not (isinstance(width, int) and 4 <= width <= 256):
            raise ValueError(f"width must be an integer from 4 to 256, but is {width!r}")
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
        self.head = nn.Linear(9 * 4 * width, num_classes)


class TinyCNN(Network):
    """A simple CNN: three convolutions with BatchNorm and max-pooling, and a hidden layer of 512 units.

    Args:
        num_classes: Number of classes, C.
        dropout: Share of hidden units dropped during training.
    """

    def __init__(self, num_classes: int, dropout: float = 0.3) -> None:
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
        self.head = nn.Linear(512, num_classes)


class EfficientNetLite0(Network):
    """EfficientNet-Lite0 for transfer learning (Tan and Le 2019; the mobile variant without squeeze-and-excite).

    It is built with random weights. `training/pretrained.py` loads pretrained weights when training starts. The network
    has 3.4 M parameters.

    Args:
        num_classes: Number of classes, C.
        weights: Initial weights for training: `imagenet`, the path of a file with weights of this architecture, or None
            for random weights.
        dropout: Share of the 1280 features dropped before the last layer during training.
    """

    def __init__(self, num_classes: int, weights: str | None = "imagenet", dropout: float = 0.2) -> None:
        super().__init__()
        if not (weights is None or isinstance(weights, str)):
            raise TypeError(f"weights must be a name, a path or null, but is {weights!r}")
        self.weights = weights
        self.features = nn.Sequential(
            Normalize(),
            # image_size=None selects padding that depends on the input size.
            _Lite0Maps.from_name("efficientnet-lite0", image_size=None),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(1280, num_classes)


class _Lite0Maps(EfficientNet):  # type: ignore[misc]
    """The network of the library without its last layer."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        del self._fc

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.extract_features(images))


# A checkpoint names its architecture. Only classes in this list are built from a file, so no foreign code is run.
MODELS: dict[str, type[Network]] = {
    "src.mlops.model.SignNet": SignNet,
    "src.mlops.model.TinyCNN": TinyCNN,
    "src.mlops.model.EfficientNetLite0": EfficientNetLite0,
}


def build_model(config: Mapping[str, Any], num_classes: int) -> Network:
    """Builds a network from the config group `model`.

    Args:
        config: `_target_` (a key of `MODELS`) and the arguments of that class.
        num_classes: Number of classes, C.

    Returns:
        The network with random weights, in training mode.

    Raises:
        ConfigError: The target is not in the list, or does not accept the arguments.
    """
    arguments = dict(config)
    target = arguments.pop("_target_", None)
    if not isinstance(target, str) or target not in MODELS:
        raise ConfigError(f"model._target_ must be one of {', '.join(MODELS)}, but is {target!r}.")
    try:
        return MODELS[target](num_classes, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{target} does not accept the arguments {arguments}: {error}.") from error


def count_parameters(model: nn.Module) -> int:
    """Returns the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def choose_device(name: str) -> torch.device:
    """Returns the device for `auto`, `cpu`, `mps`, `cuda` or one GPU such as `cuda:1`.

    Raises:
        ConfigError: The device is not available on this machine.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    device = torch.device(name)
    if not available[device.type]:
        raise ConfigError(f"The device {name!r} is not available on this machine. Use device=auto or device=cpu.")
    if device.index is not None and device.index >= (count := torch.cuda.device_count()):
        raise ConfigError(f"The device {name!r} does not exist: this machine has cuda:0 to cuda:{count - 1}.")
    return device


def predict_logits(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> NDArray[np.float32]:
    """Runs a model over batches of images and labels, on the model's device.

    Returns:
        Logits, float32 [N, C], in the order of the images.
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
