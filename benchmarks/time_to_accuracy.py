"""Seconds until validation accuracy first reaches 98 % and 99 %: this project and the recipe of most tutorials.

    uv run python -m benchmarks.time_to_accuracy data.raw_dir=../shared/gtsrb

The default experiment and `experiment=baseline` (TinyCNN at 64x64, Adam 1e-4, batches of 16, one image after the other
through Pillow and a DataLoader as it is by default, without workers), on the same training and validation images.
Seconds are wall-clock time from the first step, with validation after each epoch; preparing the data is stated by
itself. The default is run in bf16 as well. Any setting can be overridden for all. `--trials 3 --baseline-trials 1
--baseline-epochs 4` say how often, and how long the baseline may try. Writes benchmarks/results/time_to_accuracy.csv.
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
        rows = [
            in_new_process(_project, overrides, name, folder, trial)
            for trial in range(options.trials)
            for name in ("default", "default, bf16")
        ]
        write_results("time_to_accuracy", rows, ("recipe", "trial"))
        limit = f"training.epochs={options.baseline_epochs}"
        for trial in range(options.baseline_trials):
            row = in_new_process(_baseline, [limit, *overrides], folder, trial)
            write_results("time_to_accuracy", [row], ("recipe", "trial"))


def _project(overrides: list[str], recipe: str, folder: str, trial: int) -> Row:
    precision = ["training.precision=bf16"] if recipe.endswith("bf16") else []
    own = f"{folder}/{len(precision)}-{trial}"
    folders = [f"data.processed_dir={own}/processed", f"run_dir={own}/run", "training.publish=false"]
    config = load_config([*precision, *overrides, *folders, f"seed={trial}"])
    started = time.perf_counter()
    prepare(config.data)
    preparing = time.perf_counter() - started
    epochs: list[tuple[float, float]] = []
    train(config, on_epoch=lambda row: epochs.append((row["seconds"], row["val_Accuracy"])))
    images = len(prepare(config.data).load("train").rows)
    return _row(recipe, trial, preparing, epochs, images)


def _baseline(overrides: list[str], folder: str, trial: int) -> Row:
    own = f"data.processed_dir={folder}/baseline"
    config = load_config(["experiment=baseline", *overrides, own, f"seed={trial}"])
    pack = prepare(config.data)  # for its splits; its packed images are not used
    epochs = list(train_baseline(config, pack, workers=0))
    return _row("baseline", trial, 0.0, epochs, len(pack.load("train").rows))


def _row(recipe: str, trial: int, preparing: float, epochs: list[tuple[float, float]], images: int) -> Row:
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
        "images_per_second": round(images / seconds),
        "seconds_preparing": round(preparing, 1),
        "best_val_accuracy": round(max(accuracy for _, accuracy in epochs), 4),
    }


if __name__ == "__main__":
    command_line(main)
