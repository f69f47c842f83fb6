"""Training on pretrained features."""

from pathlib import Path

import pytest
import torch
from torch import nn

from src.mlops.model import EfficientNetLite0
from src.mlops.modelfile.checkpoint import load_checkpoint
from src.mlops.training.pretrained import load_pretrained
from src.mlops.training.train import train
from tests.helpers.tiny import quick_config, tiny_overrides


def stem(model: nn.Module) -> torch.Tensor:
    return next(tensor for name, tensor in model.state_dict().items() if name.endswith("_conv_stem.weight"))


@pytest.mark.slow
def test_frozen_features_stay_and_then_learn(tmp_path: Path, raw_dir: Path) -> None:
    def trained(name: str, epochs: int) -> nn.Module:
        overrides = [one for one in tiny_overrides(tmp_path / name, raw_dir) if not one.startswith("model.")]
        overrides += ["model=efficientnet_lite0", "data.image_size=32", "training.ema_decay=0"]
        train(quick_config([*overrides, f"training.epochs={epochs}", "training.frozen_epochs=1"]))
        return load_checkpoint(tmp_path / name / "run/best_model.pth").model

    fresh = EfficientNetLite0()
    load_pretrained(fresh)
    frozen, tuned = trained("frozen", 1), trained("tuned", 2)
    for name, tensor in fresh.features.state_dict().items():
        assert torch.equal(tensor, frozen.features.state_dict()[name]), name
    assert not torch.equal(stem(fresh), stem(tuned))
