"""Evaluates a checkpoint on a split: `python -m src.mlops.evaluate`, or `evaluate(config)` from Python."""

from src.mlops.cli import hydra_main
from src.mlops.evaluation.evaluate import evaluate

__all__ = ["evaluate"]

if __name__ == "__main__":
    hydra_main(evaluate)
