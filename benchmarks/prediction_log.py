"""Measures what the prediction log costs the service: CPU time at half of the maximum load, throughput at the maximum.

    uv run python -m benchmarks.prediction_log data.raw_dir=../shared/gtsrb

Two services with the bundled model and one worker run at the same time, one with the log and one without. wrk sends
forms with one PNG image of median size to one of them and then to the other, in alternating order. At half load, the
connections wait for random times between requests. The CPU time is that of the service's processes, and includes the
time in which the log writes its last records. Writes benchmarks/results/prediction_log.csv, with one row per load.
"""

import re
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

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
from src.mlops.cli import Overrides, new_app, typer_main
from src.mlops.config import load_config

app = new_app()
PAIRS, SECONDS = 7, 10
FLUSH_SECONDS = 2.0  # the default of the service
_COUNTER = re.compile(r'^mlops_log_records_total\{outcome="(\w+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """One run of wrk, and what it cost.

    Attributes:
        rate: Images per second.
        cpu_ms: CPU time of the service per image in ms.
        p50_ms: Median response time.
        p99_ms: 99th percentile of the response time.
        written: Records that were written.
        lost: Records that were lost.
        missing: Successful responses without a record that was written or counted as lost.
    """

    rate: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float
    written: int
    lost: int
    missing: int


@app.command()
def main(
    overrides: Overrides,
    pairs: Annotated[int, typer.Option(help="Number of pairs of runs at each load.")] = PAIRS,
    seconds: Annotated[int, typer.Option(help="Duration of a run.")] = SECONDS,
) -> None:
    """Measures the service with and without the log."""
    require_wrk()
    png = median_png(load_config(overrides))
    with tempfile.TemporaryDirectory() as folder:
        settings = {"MLOPS_LOG_URL": folder, "MLOPS_LOG_FLUSH_SECONDS": str(FLUSH_SECONDS)}
        with with_and_without("the log", settings, png) as services:
            found = at_both_loads(services, png, pairs, partial(_run, seconds=seconds), _describe)
    write_results("prediction_log", [_row(load, runs, seconds) for load, runs in found.items()], ("load",))


def _describe(on: Run, off: Run) -> str:
    return (
        f"with the log: {on.rate:.0f}/s, {on.cpu_ms:.3f} ms of CPU per image, {on.lost} records lost, "
        f"{on.missing} missing; without: {off.rate:.0f}/s, {off.cpu_ms:.3f} ms"
    )


def _run(service: Service, form: Path, seconds: int) -> Run:
    before, cpu = _records(service), cpu_seconds(service)
    found = load(form, service.port, CONNECTIONS, seconds)
    time.sleep(FLUSH_SECONDS + 1)  # the log writes its last records
    used = cpu_seconds(service) - cpu
    after = _records(service)
    changes = {outcome: int(value - before[outcome]) for outcome, value in after.items() if outcome != "answered"}
    written = changes.pop("written", 0)
    lost = sum(changes.values())
    images = int(after["answered"] - before["answered"])  # wrk does not count the requests at its end
    missing = images - written - lost if "written" in after else 0
    return Run(
        found["images_per_second"], 1000 * used / images, found["p50_ms"], found["p99_ms"], written, lost, missing
    )


def _records(service: Service) -> dict[str, float]:
    """Returns the number of records by outcome, and of classified images (`answered`)."""
    text = get(service, "/metrics")
    return {outcome: float(value) for outcome, value in _COUNTER.findall(text)} | {"answered": answered(text)}


def _row(name: str, pairs: list[dict[bool, Run]], seconds: int) -> Row:
    on, off = ([pair[is_on] for pair in pairs] for is_on in (True, False))
    cpu = [pair[True].cpu_ms / pair[False].cpu_ms for pair in pairs]
    rate = [pair[True].rate / pair[False].rate for pair in pairs]

    return {
        "load": name,
        "pairs": len(pairs),
        "seconds": seconds,
        "images_per_second": round(median(off, "rate")),
        "images_per_second_with_log": round(median(on, "rate")),
        "rate_ratio": round(statistics.median(rate), 3),
        "rate_ratio_lowest": round(min(rate), 3),
        "cpu_ms": median(off, "cpu_ms"),
        "cpu_ms_with_log": median(on, "cpu_ms"),
        "cpu_ratio": round(statistics.median(cpu), 3),
        "cpu_ratio_highest": round(max(cpu), 3),
        "p50_ms": median(off, "p50_ms"),
        "p50_ms_with_log": median(on, "p50_ms"),
        "p99_ms": median(off, "p99_ms"),
        "p99_ms_with_log": median(on, "p99_ms"),
        "records_written": sum(run.written for run in on),
        "records_lost": sum(run.lost for run in on),
        "records_missing": sum(run.missing for run in on),
    }


if __name__ == "__main__":
    typer_main(app)
