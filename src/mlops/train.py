"""Trains a model: `python -m src.mlops.train training.epochs=3`, or `train(config)` from Python.

For several processes: `torchrun --nproc-per-node 2 -m src.mlops.train …`, see `training/distributed.py`.
"""

from src.mlops.cli import hydra_main
from src.mlops.training.train import train

__all__ = ["train"]

if __name__ == "__main__":
    hydra_main(train)
