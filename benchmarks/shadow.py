"""Measures what a shadow costs the service: throughput, response times and CPU time, at half load and at the maximum.

    uv run python -m benchmarks.shadow data.raw_dir=../shared/gtsrb

Two services with the bundled model and one worker run at the same time, one with a shadow and one without. The shadow
has the same network, so it needs the same time per image. wrk sends forms with one PNG image of median size to one of
them and then to the other, in alternating order. At half load, the connections wait for random times between requests.
Writes benchmarks/results/shadow.csv, with one row per load.
"""

import json
import re
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import onnx
import typer

from benchmarks.environment import Row, write_results
from benchmarks.pairs import (
    CONNECTIONS,
    Service,
    answered,
    at_both_loads,
    cpu_seconds,
    get,
    median,
    with_and_without,
)
from benchmarks.serving import load, median_png, require_wrk
from src.mlops import ROOT
from src.mlops.cli import Overrides, new_app, typer_main
from src.mlops.config import load_config
from src.mlops.modelfile.locate import BUNDLED

app = new_app()
PAIRS, SECONDS = 7, 10
PATIENCE = 1.5  # seconds after which each image was answered by the shadow or dropped
_COUNTER = re.compile(r'^mlops_shadow_images_total\{outcome="(\w+)",version="\w+"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """One run of wrk, and what it cost.

    Attributes:
        rate: Images per second.
        p50_ms: Median response time.
        p99_ms: 99th percentile of the response time.
        cpu_ms: CPU time of the service per image in ms.
        errors: Requests without a successful response.
        images: Images that the service classified.
        shadowed: Images that the shadow answered.
        dropped: Images that were offered to the shadow, and dropped.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    errors: int
    images: int
    shadowed: int
    dropped: int


@app.command()
def main(
    overrides: Overrides,
    pairs: Annotated[int, typer.Option(help="Number of pairs of runs at each load.")] = PAIRS,
    seconds: Annotated[int, typer.Option(help="Duration of a run.")] = SECONDS,
) -> None:
    """Measures the service with and without a shadow."""
    require_wrk()
    png = median_png(load_config(overrides))
    with tempfile.TemporaryDirectory() as folder:
        settings = {"MLOPS_SHADOW_MODEL": str(_candidate(Path(folder)))}
        with with_and_without("a shadow", settings, png) as services:
            while json.loads(get(services[True], "/model"))["shadow"]["state"] != "answering":
                time.sleep(0.1)
            found = at_both_loads(services, png, pairs, partial(_run, seconds=seconds), _describe)
    write_results("shadow", [_row(load, runs, seconds) for load, runs in found.items()], ("load",))


def _candidate(folder: Path) -> Path:
    """Writes the bundled model with other metadata, which make it another version."""
    model = onnx.load(ROOT / BUNDLED)
    for entry in model.metadata_props:
        if entry.key == "metrics":
            entry.value = "{}"
    path = folder / "candidate.onnx"
    onnx.save(model, path)
    return path


def _describe(on: Run, off: Run) -> str:
    return (
        f"with a shadow: {on.rate:.0f}/s, 99th percentile {on.p99_ms:.1f} ms, {on.shadowed} answered, "
        f"{on.dropped} dropped; without: {off.rate:.0f}/s, {off.p99_ms:.1f} ms"
    )


def _run(service: Service, form: Path, seconds: int) -> Run:
    before, cpu = _counts(service), cpu_seconds(service)
    found = load(form, service.port, CONNECTIONS, seconds)
    time.sleep(PATIENCE)
    used = cpu_seconds(service) - cpu
    change = {name: number - before[name] for name, number in _counts(service).items()}
    return Run(
        found["images_per_second"],
        found["p50_ms"],
        found["p99_ms"],
        1000 * used / change["images"],
        int(found["errors"]),
        change["images"],
        change["agreed"] + change["disagreed"],
        change["dropped"],
    )


def _counts(service: Service) -> dict[str, int]:
    text = get(service, "/metrics")
    counts = dict.fromkeys(("agreed", "disagreed", "dropped"), 0)
    counts |= {outcome: int(float(value)) for outcome, value in _COUNTER.findall(text)}
    return counts | {"images": int(answered(text))}


def _row(name: str, pairs: list[dict[bool, Run]], seconds: int) -> Row:
    on, off = ([pair[is_on] for pair in pairs] for is_on in (True, False))
    ratios = {
        figure: [getattr(pair[True], figure) / getattr(pair[False], figure) for pair in pairs]
        for figure in ("rate", "p99_ms", "cpu_ms")
    }

    return {
        "load": name,
        "pairs": len(pairs),
        "seconds": seconds,
        "images_per_second": round(median(off, "rate")),
        "images_per_second_with_shadow": round(median(on, "rate")),
        "rate_ratio": round(statistics.median(ratios["rate"]), 3),
        "rate_ratio_lowest": round(min(ratios["rate"]), 3),
        "p50_ms": median(off, "p50_ms"),
        "p50_ms_with_shadow": median(on, "p50_ms"),
        "p99_ms": median(off, "p99_ms"),
        "p99_ms_with_shadow": median(on, "p99_ms"),
        "p99_ratio": round(statistics.median(ratios["p99_ms"]), 3),
        "p99_ratio_highest": round(max(ratios["p99_ms"]), 3),
        "cpu_ms": median(off, "cpu_ms"),
        "cpu_ms_with_shadow": median(on, "cpu_ms"),
        "cpu_ratio": round(statistics.median(ratios["cpu_ms"]), 3),
        "images": sum(run.images for run in on),
        "shadowed": sum(run.shadowed for run in on),
        "dropped": sum(run.dropped for run in on),
        "errors": sum(run.errors for run in off),
        "errors_with_shadow": sum(run.errors for run in on),
    }


if __name__ == "__main__":
    typer_main(app)
