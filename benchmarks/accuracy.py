"""Measures accuracy, size and cost of the configurations that the documentation compares.

    uv run python -m benchmarks.accuracy default record data.raw_dir=../shared/gtsrb
    uv run python -m benchmarks.accuracy record --seed 1 --seed 2 --seed 3 data.raw_dir=../shared/gtsrb

Trains each named configuration with each seed, then evaluates it once on the test images. All settings were chosen on
validation images before. `ms_per_image` is the median of 200 forward passes of one image in torch, without decoding.
Overrides apply to all configurations. Writes benchmarks/results/accuracy.csv and keeps the rows of other
configurations, seeds and overrides. Models and reports are in models/benchmarks/.
"""

import shutil
import statistics
import time
from typing import Annotated

import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.environment import KEPT, Row, in_new_process, names_and_overrides, write_results
from src.mlops.cli import new_app, typer_main
from src.mlops.config import load_config
from src.mlops.evaluation.evaluate import evaluate
from src.mlops.model import count_parameters
from src.mlops.modelfile.checkpoint import Checkpoint, load_checkpoint
from src.mlops.training.train import train

app = new_app()

CONFIGURATIONS = {
    "default": [],
    "record": ["experiment=record"],
    "efficientnet_lite0": ["model=efficientnet_lite0"],
    "tiny_cnn": ["model=tiny_cnn"],
    "baseline": ["experiment=baseline"],
}


@app.command()
def main(
    words: Annotated[list[str], typer.Argument(help=f"Some of {', '.join(CONFIGURATIONS)}; and Hydra overrides.")],
    seed: Annotated[list[int], typer.Option(default_factory=lambda: [42], help="Seed; can be repeated.")],
) -> None:
    """Measures each configuration with each seed in a new process."""
    names, overrides = names_and_overrides(words, CONFIGURATIONS, "Configuration")
    for one in seed:
        for name in names:
            row = in_new_process(_measure, name, one, [*CONFIGURATIONS[name], *overrides])
            write_results("accuracy", [row], ("configuration", "seed", "overrides"))


def _measure(name: str, seed: int, overrides: list[str]) -> Row:
    folder = KEPT / f"{name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    own = [
        f"run_dir='{folder}/run'",
        f"ckpt_path='{folder}/best_model.pth'",
        f"evaluation.reports_dir='{folder}/reports'",
    ]
    config = load_config([*overrides, *own, f"seed={seed}"])
    epochs: list[float] = []
    best = train(config, on_epoch=lambda row: epochs.append(row["seconds"]))
    test = evaluate(config)
    checkpoint = load_checkpoint(config.ckpt_path)
    return {
        "configuration": name,
        "seed": seed,
        "overrides": " ".join(
            word for word in overrides if not word.startswith(("data.raw_dir=", "data.processed_dir="))
        ),
        "image_size": checkpoint.image_size,
        "val_accuracy": round(best["val_Accuracy"], 5),
        "test_accuracy": round(test["Accuracy"], 5),
        "test_wrong": test["errors"],
        "test_images": test["images"],
        "test_f1": round(test["F1"], 4),
        "test_calibration_error": round(test["expected_calibration_error"], 4),
        "parameters": count_parameters(checkpoint.model),
        "mmac": round(count_macs(checkpoint) / 1e6, 1),
        "ms_per_image": round(_milliseconds(checkpoint), 2),
        "epochs": len(epochs),
        "seconds_per_epoch": round(epochs[-1] / len(epochs), 1),
    }


def _image(checkpoint: Checkpoint) -> torch.Tensor:
    side = checkpoint.image_size
    return torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)


def count_macs(checkpoint: Checkpoint) -> float:
    """Counts the MACs of convolutions and linear layers for one image."""
    with FlopCounterMode(display=False) as counter:
        checkpoint.model(_image(checkpoint))
    return float(counter.get_total_flops()) / 2


def _milliseconds(checkpoint: Checkpoint) -> float:
    image = _image(checkpoint)
    times = []
    with torch.inference_mode():
        for _ in range(220):
            started = time.perf_counter()
            checkpoint.model(image)
            times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[20:])


if __name__ == "__main__":
    typer_main(app)
