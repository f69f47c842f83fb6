"""Measures the seconds until the validation accuracy first reaches 98 % and 99 %, for this project and a baseline.

    uv run python -m benchmarks.time_to_accuracy data.raw_dir=../shared/gtsrb

Compares the default experiment, also in bf16, with `experiment=baseline`: TinyCNN at 64 x 64 px, Adam with learning
rate 1e-4, batches of 16, Pillow, and a DataLoader without workers, which is its default. Both use the same training and
validation images, with augmentation of the same strength. Times are wall-clock times of the complete training with
validation and saving after each epoch. `seconds_preparing` is the separate time for preparing the data. Overrides apply
to all trainings. `--trials` and `--baseline-trials` set the number of trainings, `--baseline-epochs` the number of
epochs of the baseline. Writes benchmarks/results/time_to_accuracy.csv.
"""

import tempfile
import time
from typing import Annotated

import typer

from benchmarks.baseline import train_baseline
from benchmarks.environment import Row, in_new_process, write_results
from src.mlops.cli import Overrides, new_app, typer_main
from src.mlops.config import load_config
from src.mlops.data.prepare import prepare
from src.mlops.training.train import train

app = new_app()

TARGETS = (0.98, 0.99)


@app.command()
def main(
    overrides: Overrides,
    trials: Annotated[int, typer.Option(help="Number of trainings with the default settings.")] = 3,
    baseline_trials: Annotated[int, typer.Option(help="Number of trainings of the baseline.")] = 1,
    baseline_epochs: Annotated[int, typer.Option(help="Number of epochs of each baseline training.")] = 4,
) -> None:
    """Runs all trials one after the other, each in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        for trial in range(trials):
            for recipe in ("default", "default, bf16"):
                row = in_new_process(_project, overrides, recipe, f"{folder}/{recipe}-{trial}", trial)
                write_results("time_to_accuracy", [row], ("recipe", "trial"))
        limit = f"training.epochs={baseline_epochs}"
        for trial in range(baseline_trials):
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
    pack = prepare(config.data)  # only its splits are used, not its packed images
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
    typer_main(app)
