"""Milliseconds of a training step in fp32, bf16 and fp16, plain and compiled.

    uv run python -m benchmarks.precision

The forward and backward pass and the optimiser's step of the default training on random images, batches of 128 at the
sizes that it trains at. The variants take turns; the median of all steps counts, after warm-up. `compile_seconds` is
what the first step of a compiled network took. Any setting can be overridden, such as `model=efficientnet_lite0`.
Writes benchmarks/results/precision.csv.
"""

import itertools
import statistics
import time

import torch

from benchmarks.environment import Row, command_line, write_results
from src.mlops.config import Config, load_config
from src.mlops.loop import State, train_step
from src.mlops.model import build_model, choose_device

SIZES = (32, 40, 48)
ROUNDS, STEPS, WARMUP = 5, 8, 3


def main(words: list[str]) -> None:
    """Measures all variants at all sizes."""
    config = load_config(words)
    rows: list[Row] = []
    for size in SIZES:
        states = {
            variant: _state(config.replace({"training.precision": variant[0], "training.compile": variant[1]}))
            for variant in itertools.product(("fp32", "bf16", "fp16"), (False, True))
        }
        first = {variant: _seconds(state, size) for variant, state in states.items()}
        times: dict[tuple[str, bool], list[float]] = {variant: [] for variant in states}
        for _ in range(ROUNDS):
            for variant, state in states.items():
                times[variant] += [_seconds(state, size) for _ in range(WARMUP + STEPS)][WARMUP:]
        for (precision, compiled), values in times.items():
            row = {"model": type(states[precision, compiled].model).__name__, "image_size": size}
            row |= {"batch_size": config.training.batch_size, "precision": precision, "compile": compiled}
            row |= {"ms_per_step": round(1000 * statistics.median(values), 1), "trials": len(values)}
            rows.append(row | {"compile_seconds": round(first[precision, compiled], 1) if compiled else ""})
    write_results("precision", rows, ("model", "image_size", "precision", "compile"))


def _state(config: Config) -> State:
    model = build_model(config.model).to(choose_device(config.device)).to(memory_format=torch.channels_last)
    state = State(config, model, steps_per_epoch=1000, data_fingerprint="")
    state.start_epoch()
    return state


def _seconds(state: State, size: int) -> float:
    images = torch.rand(state.config.training.batch_size, 3, size, size, device=state.device) * 255
    labels = torch.randint(0, 43, (len(images),), device=state.device)
    started = time.perf_counter()
    train_step(state, images, labels).tolist()  # reading the result waits for a GPU
    return time.perf_counter() - started


if __name__ == "__main__":
    command_line(main)
