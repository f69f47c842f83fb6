"""A training that starts from a checkpoint."""

from collections.abc import Callable
from pathlib import Path

import torch

from src.mlops.config import Config
from src.mlops.modelfile.checkpoint import load_checkpoint
from src.mlops.training.train import train


def test_a_training_starts_from_a_checkpoint(make_config: Callable[..., Config], checkpoint: Path) -> None:
    hardly_any = ["training.epochs=1", "training.optimizer.lr=1.0e-9", "training.optimizer.weight_decay=0"]
    config = make_config(f"training.start_from={checkpoint}", *hardly_any)
    train(config)
    trained, source = (dict(load_checkpoint(path).model.named_parameters()) for path in (config.ckpt_path, checkpoint))
    torch.testing.assert_close(trained, source, rtol=0, atol=1e-5)
