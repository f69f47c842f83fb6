"""Trains a model: `python -m src.mlops.train training.epochs=3`, or `train(config)` from Python.

For several processes: `torchrun --nproc-per-node 2 -m src.mlops.train …`, see `training/distributed.py`.
"""

from src.mlops.cli import hydra_main
from src.mlops.config import Config
from src.mlops.monitoring.reference import add_reference
from src.mlops.training.train import train

__all__ = ["main", "train"]


def main(config: Config) -> dict[str, float]:
    """Trains a model whose export contains the reference of drift detection."""
    return train(config, on_export=add_reference)


if __name__ == "__main__":
    hydra_main(main)
