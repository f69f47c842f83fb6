"""Seconds until validation accuracy first reaches 98 % and 99 %: this project and the recipe of most tutorials.

    uv run python -m benchmarks.time_to_accuracy data.raw_dir=../shared/gtsrb

The default experiment and `experiment=baseline` (TinyCNN at 64x64, Adam 1e-4, batches of 16, one image after the other
through Pillow and a DataLoader as it is by default, without workers), on the same training and validation images.
Both change their training images equally strongly. Seconds are wall-clock time of the whole training, with validation
and saving after each epoch; preparing the data is stated by itself. The default is run in bf16 as well. Any setting can
be overridden for all. `--trials 3 --baseline-trials 1 --baseline-epochs 4` say how often, and how long the baseline may
try. Writes benchmarks/results/time_to_accuracy.csv.
"""

import argparse
import tempfile
import time

from benchmarks.baseline import train_baseline
from benchmarks.environment import Row, command_line, in_new_process, parse, write_results
from src.mlops.config import load_config
from src.mlops.data.prepare import prepare
from src.mlops.train import train

TARGETS = (0.98, 0.99)


def main(words: list[str]) -> None:
    """Runs all trials in turn, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.time_to_accuracy")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--baseline-trials", type=int, default=1)
    parser.add_argument("--baseline-epochs", type=int, default=4)
    options, overrides = parse(parser, words)
    with tempfile.TemporaryDirectory() as folder:
        for trial in range(options.trials):
            for recipe in ("default", "default, bf16"):
                row = in_new_process(_project, overrides, recipe, f"{folder}/{recipe}-{trial}", trial)
                write_results("time_to_accuracy", [row], ("recipe", "trial"))
        limit = f"training.epochs={options.baseline_epochs}"
        for trial in range(options.baseline_trials):
            row = in_new_process(_baseline, [limit, *overrides], f"{folder}/baseline", trial)
            write_results("time_to_accuracy", [row], ("recipe", "trial"))


def _project(overrides: list[str], recipe: str, folder: str, trial: int) -> Row:
    precision = ["training.precision=bf16"] if recipe.endswith("bf16") else []
    folders = [f"data.processed_dir='{folder}/processed'", f"run_dir='{folder}/run'", "training.publish=false"]
    config = load_config([*precision, *overrides, *folders, f"seed={trial}"])
    started = time.perf_counter()
    prepare(config.data)
    preparing = time.perf_counter() - started
    epochs: list[tuple[float, float]] = []
    started = time.perf_counter()
    train(config, on_epoch=lambda row: epochs.append((time.perf_counter() - started, row["val_Accuracy"])))
    return _row(recipe, trial, preparing, epochs)


def _baseline(overrides: list[str], folder: str, trial: int) -> Row:
    config = load_config(["experiment=baseline", *overrides, f"data.processed_dir={folder}", f"seed={trial}"])
    pack = prepare(config.data)  # for its splits; its packed images are not used
    return _row("baseline", trial, 0.0, list(train_baseline(config, pack, workers=0)))


def _row(recipe: str, trial: int, preparing: float, epochs: list[tuple[float, float]]) -> Row:
    seconds = epochs[-1][0] / len(epochs)
    reached = {
        f"seconds_to_{100 * target:.0f}": next((round(at, 1) for at, accuracy in epochs if accuracy >= target), "")
        for target in TARGETS
    }
    return {
        "recipe": recipe,
        "trial": trial,
        **reached,
        "epochs": len(epochs),
        "seconds_per_epoch": round(seconds, 2),
        "seconds_preparing": round(preparing, 1),
        "best_val_accuracy": round(max(accuracy for _, accuracy in epochs), 4),
    }


if __name__ == "__main__":
    command_line(main)
