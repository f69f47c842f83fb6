"""The networks can be trained."""

import pytest
import torch

from src.mlops.model import build_model

SMALL = [{"_target_": "src.mlops.model.SignNet", "width": 4}, {"_target_": "src.mlops.model.TinyCNN"}]


@pytest.mark.parametrize("config", SMALL)
def test_a_network_can_overfit_one_batch(config: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = build_model({**config, "dropout": 0.0}, 43)
    images = torch.randint(0, 256, (16, 3, 24, 24), dtype=torch.uint8)
    labels = torch.arange(16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
