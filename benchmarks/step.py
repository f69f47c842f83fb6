"""Milliseconds of a training step: number formats, compiling, and what profiling led to.

    uv run python -m benchmarks.step
    uv run python -m benchmarks.step --rounds 1 --variants fp32 bf16 model=efficientnet_lite0

One step of the default training (forward and backward pass, optimiser, averaged weights) on a batch of 128 random
images. The variants take turns, eight steps in each of five rounds; the median counts, after warm-up.
`first_step_seconds` is long where a network is compiled. Any setting can be overridden, such as
`model=efficientnet_lite0`. Writes benchmarks/results/step.csv.
"""

import argparse
import statistics
import time

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from benchmarks.environment import Row, command_line, parse, write_results
from src.mlops.config import load_config
from src.mlops.data.signs import NUM_CLASSES
from src.mlops.loop import State, train_step
from src.mlops.model import build_model, choose_device
from src.mlops.progress import ProgressBar

STEPS, WARMUP = 8, 3
ONE_BY_ONE = "weights averaged one by one"
VARIANTS = {
    "fp32": [],
    "bf16": ["training.precision=bf16"],
    "fp16": ["training.precision=fp16"],
    "fp32, compiled": ["training.compile=true"],
    "bf16, compiled": ["training.precision=bf16", "training.compile=true"],
    "fp32, optimiser not fused": ["+training.optimizer.fused=false"],
    f"fp32, {ONE_BY_ONE}": [],
}


def main(words: list[str]) -> None:
    """Measures all variants at all sizes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    options, words = parse(parser, words)
    chosen = {name: VARIANTS[name] for name in options.variants}
    rows: list[Row] = []
    config = load_config(words)
    for size in sorted({config.data.image_size, *(size for size, _ in config.training.size_schedule)}):
        torch.compiler.reset()  # else a network compiled for one size may be used for the next
        states = {name: _state(name, [*overrides, *words]) for name, overrides in chosen.items()}
        first = {name: _seconds(state, size) for name, state in states.items()}
        times: dict[str, list[float]] = {name: [] for name in states}
        with ProgressBar(f"{size} px", options.rounds) as bar:
            for done in range(options.rounds):
                for name, state in states.items():
                    times[name] += [_seconds(state, size) for _ in range(WARMUP + STEPS)][WARMUP:]
                bar.show(done + 1, "rounds")
        for name, values in times.items():
            row = {"model": type(states[name].model).__name__, "image_size": size, "variant": name}
            row |= {"ms_per_step": round(1000 * statistics.median(values), 1), "trials": len(values)}
            rows.append(row | {"first_step_seconds": round(first[name], 1)})
    write_results("step", rows, ("model", "image_size", "variant"))


def _state(name: str, overrides: list[str]) -> State:
    config = load_config([*overrides, "training.frozen_epochs=0"])
    model = build_model(config.model).to(choose_device(config.device)).to(memory_format=torch.channels_last)
    state = State(config, model, steps_per_epoch=1000, data_fingerprint="")
    if name.endswith(ONE_BY_ONE):
        average = get_ema_avg_fn(config.training.ema_decay)  # type: ignore[no-untyped-call]
        state.averaged = AveragedModel(model, avg_fn=average, use_buffers=True)
    state.start_epoch()
    return state


def _seconds(state: State, size: int) -> float:
    images = torch.rand(state.config.training.batch_size, 3, size, size, device=state.device) * 255
    labels = torch.randint(0, NUM_CLASSES, (len(images),), device=state.device)
    started = time.perf_counter()
    train_step(state, images, labels).tolist()  # reading the result waits for a GPU
    return time.perf_counter() - started


if __name__ == "__main__":
    command_line(main)
