"""Accuracy, size and cost of the configurations that the documentation compares.

    uv run python -m benchmarks.accuracy default record data.raw_dir=../shared/gtsrb
    uv run python -m benchmarks.accuracy record --seeds 1 2 3 data.raw_dir=../shared/gtsrb

Trains each named configuration with each seed, then runs the test images through it once. Everything was chosen on
validation images before. `ms_per_image` is the median of 200 forward passes of one image in torch, without decoding.
Any setting can be overridden for all. Writes benchmarks/results/accuracy.csv; rows of other configurations, seeds and
overrides stay. Models and reports are kept in models/benchmarks/.
"""

import argparse
import shutil
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.environment import Row, command_line, in_new_process, parse, write_results
from src.mlops import ROOT
from src.mlops.checkpoint import Checkpoint, load_checkpoint
from src.mlops.config import load_config
from src.mlops.evaluate import evaluate
from src.mlops.model import count_parameters
from src.mlops.train import train

KEPT = ROOT / "models" / "benchmarks"
CONFIGURATIONS = {
    "default": [],
    "record": ["experiment=record"],
    "efficientnet_lite0": ["model=efficientnet_lite0"],
    "tiny_cnn": ["model=tiny_cnn"],
    "baseline": ["experiment=baseline"],
}


def main(words: list[str]) -> None:
    """Measures each configuration and seed in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy")
    parser.add_argument("configurations", nargs="+", choices=list(CONFIGURATIONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    options, overrides = parse(parser, words)
    for seed in options.seeds:
        for name in options.configurations:
            row = in_new_process(_measure, name, seed, [*CONFIGURATIONS[name], *overrides])
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
    """Counts the multiplications of one image in convolutions and linear layers."""
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
    command_line(main)
