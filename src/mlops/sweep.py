"""Searches hyperparameters: `python -m src.mlops.sweep hparams_search.trials=20`, or `sweep(config)` from Python."""

from src.mlops.cli import hydra_main
from src.mlops.training.sweep import sweep

__all__ = ["sweep"]

if __name__ == "__main__":
    hydra_main(sweep)
