"""Measures the time of a training step with different number formats, compilation and optimisations.

    uv run python -m benchmarks.step
    uv run python -m benchmarks.step --rounds 1 --variant fp32 --variant bf16 model=efficientnet_lite0
    uv run python -m benchmarks.step device=cuda

A step consists of forward and backward pass, optimiser and update of the EMA weights, on a batch of 128 random images.
The variants alternate in five rounds of eight steps after a warm-up; results are medians. `first_step_seconds` includes
compilation. Any setting can be overridden, such as `model=efficientnet_lite0`. Writes benchmarks/results/step.csv.
"""

import statistics
import time
from typing import Annotated

import torch
import typer
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from benchmarks.environment import Row, write_results
from src.mlops.cli import Overrides, new_app, typer_main
from src.mlops.config import LARGEST_BATCH, load_config
from src.mlops.data.gtsrb import SIGNS
from src.mlops.errors import ConfigError
from src.mlops.io.progress import progress_bar
from src.mlops.model import build_model, choose_device
from src.mlops.training.schedules import size_of_epoch
from src.mlops.training.train_loop import State, train_step

app = new_app()

STEPS, WARMUP = 8, 3
ONE_BY_ONE = "EMA updated tensor by tensor"
VARIANTS = {
    "fp32": [],
    "bf16": ["training.precision=bf16"],
    "fp16": ["training.precision=fp16"],
    "fp32, compiled": ["training.compile=true"],
    "bf16, compiled": ["training.precision=bf16", "training.compile=true"],
    "fp32, optimiser not fused": ["+training.optimizer.fused=false"],
    f"fp32, {ONE_BY_ONE}": [],
}


@app.command()
def main(
    overrides: Overrides,
    variant: Annotated[
        list[str],
        typer.Option(default_factory=list, show_default=False, help="Variant; can be repeated; default: all."),
    ],
    rounds: Annotated[int, typer.Option(help="Number of rounds.")] = 5,
) -> None:
    """Measures the variants at all image sizes of the training."""
    unknown = set(variant) - VARIANTS.keys()
    if unknown:
        raise ConfigError(f"Variant {unknown.pop()!r} does not exist; choose from {', '.join(VARIANTS)}.")
    chosen = {name: own for name, own in VARIANTS.items() if name in (variant or VARIANTS)}
    rows: list[Row] = []
    config = load_config(overrides)
    training = config.training
    for size in sorted({size_of_epoch(epoch, training, config.data.image_size) for epoch in range(training.epochs)}):
        torch.compiler.reset()  # otherwise a network compiled for one size may be used for the next
        states = {name: _state(name, [*own, *overrides]) for name, own in chosen.items()}
        first = {name: _seconds(state, size) for name, state in states.items()}
        times: dict[str, list[float]] = {name: [] for name in states}
        with progress_bar(f"{size} px", rounds) as bar:
            for _ in range(rounds):
                for name, state in states.items():
                    times[name] += [_seconds(state, size) for _ in range(WARMUP + STEPS)][WARMUP:]
                bar.update()
        for name, values in times.items():
            row = {"model": type(states[name].model).__name__, "image_size": size, "variant": name}
            row |= {"ms_per_step": round(1000 * statistics.median(values), 1), "trials": len(values)}
            row["device"] = states[name].device.type
            rows.append(row | {"first_step_seconds": round(first[name], 1)})
    write_results("step", rows, ("model", "image_size", "variant", "device"))


def _state(name: str, overrides: list[str]) -> State:
    config = load_config([*overrides, "training.frozen_epochs=0"])
    model = build_model(config.model, len(SIGNS)).to(choose_device(config.device)).to(memory_format=torch.channels_last)
    state = State(config, model, steps_per_epoch=1000, data_fingerprint="", classes=SIGNS)
    if name.endswith(ONE_BY_ONE):
        average = get_ema_avg_fn(config.training.ema_decay)  # type: ignore[no-untyped-call]
        state.averaged = AveragedModel(model, avg_fn=average, use_buffers=True)
    state.start_epoch()
    return state


def _seconds(state: State, size: int) -> float:
    images = torch.rand(LARGEST_BATCH, 3, size, size, device=state.device) * 255
    labels = torch.randint(0, len(SIGNS), (len(images),), device=state.device)
    if torch.accelerator.is_available():
        torch.accelerator.synchronize(state.device)  # the images above must not be created during the measurement
    started = time.perf_counter()
    train_step(state, images, labels).tolist()  # reading the result waits for the GPU
    return time.perf_counter() - started


if __name__ == "__main__":
    typer_main(app)
