"""Training on pretrained features."""

from pathlib import Path

import pytest
import torch

from src.mlops.model import EfficientNetLite0
from src.mlops.modelfile.checkpoint import read_plain
from src.mlops.training.pretrained import load_pretrained
from src.mlops.training.train import train
from tests.helpers.tiny import quick_config, tiny_overrides


@pytest.mark.slow
def test_frozen_features_stay_and_then_learn(tmp_path: Path, raw_dir: Path) -> None:
    overrides = [one for one in tiny_overrides(tmp_path, raw_dir) if not one.startswith("model.")]
    overrides += ["model=efficientnet_lite0", "data.image_size=32", "training.ema_decay=0"]
    states: list[dict[str, torch.Tensor]] = []
    train(
        quick_config([*overrides, "training.epochs=2", "training.frozen_epochs=1"]),
        on_epoch=lambda _: states.append(read_plain(tmp_path / "run/last.pth")["model"]),
    )
    fresh = EfficientNetLite0(43)
    load_pretrained(fresh)
    frozen, tuned = states
    for name, tensor in fresh.features.state_dict().items():
        assert torch.equal(tensor, frozen[f"features.{name}"]), name
    assert any(not torch.equal(tensor, frozen[name]) for name, tensor in tuned.items() if name.endswith("stem.weight"))
