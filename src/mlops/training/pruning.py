"""Initialises a narrow SignNet from a wide one, by removing complete channels so that the network really gets faster.

Keeps the channels with the largest BatchNorm scales (Liu et al., "Learning Efficient Convolutional Networks through
Network Slimming", 2017). Channels that are connected by a residual sum are kept or removed together. The narrow network
must be trained further, see `training.start_from`.
"""

import torch
from torch import Tensor

from src.mlops.errors import ConfigError
from src.mlops.model import Network, SignNet

# Each convolution with its input and output channels. Layers that use the same name share these channels.
_LAYERS = (
    ("features.1", "colours", "stem"),
    ("features.2", "stem", "middle"),
    ("features.4.pair.0", "middle", "middle pair"),
    ("features.4.pair.1", "middle pair", "middle"),
    ("features.5", "middle", "late"),
    ("features.7.pair.0", "late", "late pair"),
    ("features.7.pair.1", "late pair", "late"),
)


def start_from(model: Network, source: Network) -> None:
    """Copies the weights of a trained network, or of its channels with the largest BatchNorm scales if it is wider.

    Args:
        model: Changed in place.
        source: The trained network, of the same architecture.

    Raises:
        ConfigError: The weights do not fit the network.
    """
    weights = source.state_dict()
    if isinstance(model, SignNet) and isinstance(source, SignNet):
        weights = _strongest(weights, model.state_dict())
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(
            f"training.start_from must be a checkpoint of {type(model).__name__} that is not narrower than the model. "
            f"Its {type(source).__name__} does not fit: {str(error).splitlines()[-1].strip()}"
        ) from error


def _strongest(wide: dict[str, Tensor], narrow: dict[str, Tensor]) -> dict[str, Tensor]:
    kept = {"colours": torch.arange(3)}
    for channels in dict.fromkeys(made for _, _, made in _LAYERS):
        makers = [layer for layer, _, made in _LAYERS if made == channels]
        strength = torch.stack([wide[f"{layer}.1.weight"].abs() for layer in makers]).sum(dim=0)
        count = min(len(narrow[f"{makers[0]}.1.weight"]), len(strength))
        kept[channels] = strength.topk(count).indices.sort().values
    weights = dict(wide)
    for layer, read, made in _LAYERS:
        weights[f"{layer}.0.weight"] = wide[f"{layer}.0.weight"][kept[made]][:, kept[read]]
        for name in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{layer}.1.{name}"] = wide[f"{layer}.1.{name}"][kept[made]]
    head = wide["head.weight"]
    cells = head.shape[1] // len(wide["features.7.pair.1.1.weight"])
    weights["head.weight"] = head.view(len(head), -1, cells)[:, kept["late"]].flatten(1)
    return weights
