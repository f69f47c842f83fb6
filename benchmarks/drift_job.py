"""Measures the time and the memory of the drift job on 100,000 records.

    uv run python -m benchmarks.drift_job

The records are written by the code of the service, from synthetic images, with all fields. The embeddings have 256
numbers, or 864 as those of the bundled model. The job is a process of `python -m src.mlops.monitoring.drift`, which
reads them from the segments of the service, and then from Parquet. There are three trials of each; the seconds are
medians, and the memory is the largest. Writes benchmarks/results/drift_job.csv.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice, repeat
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from numpy.typing import NDArray

from benchmarks.environment import Row, write_results
from src.mlops import ROOT
from src.mlops.cli import new_app, typer_main
from src.mlops.data.gtsrb import SIGNS
from src.mlops.inference.classifier import Prediction
from src.mlops.io.storage import open_storage
from src.mlops.monitoring import accuracy
from src.mlops.monitoring.baseline import Baseline, Knowledge, Origin, now
from src.mlops.monitoring.compact import compact
from src.mlops.monitoring.frame import read_frame
from src.mlops.monitoring.record import Batch, json_lines
from src.mlops.monitoring.record import Origin as ImageOrigin
from src.mlops.monitoring.records import Model, observe
from src.mlops.monitoring.segments import CLOSED, RECORDS, pack_lines

app = new_app()
TRIALS = 3
EMBEDDINGS = (256, 864)  # numbers
FRAMES = 5  # of one sign
SECONDS = 4  # between two signs: 100,000 records are less than one day
SIDE = 32  # px
SEGMENT = 9000  # records; a segment of 16 MB has about as many
START = datetime(2026, 11, 1, tzinfo=UTC)


@app.command()
def main(records: Annotated[int, typer.Option(help="Number of records in the log.")] = 100_000) -> None:
    """Measures the job on segments and on Parquet."""
    rows = [row for numbers in EMBEDDINGS for row in _rows(records, numbers)]
    write_results("drift_job", rows, ("form", "embedding", "records"))


def _rows(records: int, embedding: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        log, baseline = str(Path(folder, "log")), Path(folder, "baseline.npz")
        centres = _centres(embedding)
        _write_log(log, records, centres)
        _baseline(log, centres).save(baseline)
        for form in ("JSON lines", "Parquet"):
            if form == "Parquet":
                compact(log)
            trials = [_run(log, baseline, Path(folder, "out")) for _ in range(TRIALS)]
            seconds, megabytes = zip(*trials, strict=True)
            yield {
                "form": form,
                "embedding": embedding,
                "records": records,
                "trials": TRIALS,
                "log_mb": round(sum(open_storage(log).sizes(RECORDS).values()) / 1e6),
                "seconds": round(statistics.median(seconds), 1),
                "slowest_seconds": round(max(seconds), 1),
                "peak_memory_mb": round(max(megabytes)),
            }


def _run(log: str, baseline: Path, out: Path) -> tuple[float, float]:
    """Runs the job. Returns its duration in seconds and its peak RSS in MB."""
    command = [sys.executable, "-m", "src.mlops.monitoring.drift", "--log", log, "--baseline", str(baseline)]
    started, peak = time.perf_counter(), 0.0
    with psutil.Popen([*command, "--out", str(out)], cwd=ROOT) as job:
        while job.poll() is None:
            peak = max(peak, _peak_mb(job.pid))
            time.sleep(0.02)
    if job.returncode:
        raise subprocess.CalledProcessError(job.returncode, command)
    return time.perf_counter() - started, peak


def _peak_mb(pid: int) -> float:
    """Returns the peak RSS of a running process in MB. That of a finished child would include memory of its parent."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next((int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def _write_log(url: str, records: int, centres: NDArray[np.float32]) -> None:
    storage, ids = open_storage(url), (f"{number:x}" for number in range(records))
    signs = _signs(records // FRAMES, centres)
    number = 0
    while batches := list(islice(signs, SEGMENT // FRAMES)):
        lines = json_lines(batches, ids, repeat(None)).splitlines()
        name = f"{START:%Y%m%dT%H%M%S.%fZ}-abcdef-{number:06d}{CLOSED}"
        storage.write(f"{RECORDS}/date={START:%Y-%m-%d}/{name}", pack_lines(lines))
        number += 1


def _signs(count: int, centres: NDArray[np.float32]) -> Iterator[Batch]:
    """Yields the frames of one sign after the other."""
    rng = np.random.default_rng(1)
    for number in range(count):
        label = int(rng.integers(len(SIGNS)))
        coarse = rng.integers(40, 216, (FRAMES, SIDE // 8, SIDE // 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
        yield Batch(
            time=START.timestamp() + SECONDS * number,
            answered=1.0,
            classes=SIGNS,
            arrays=coarse + rng.integers(0, 8, coarse.shape, np.uint8),
            embedding=centres[label] + rng.normal(0, 0.01, (FRAMES, centres.shape[1])).astype(np.float32),
            energy=rng.normal(-10, 1, FRAMES).astype(np.float32),
            predictions=[
                Prediction(label, SIGNS[label].name, None, float(chance), [], [label], False, "0" * 12)
                for chance in rng.beta(20, 1, FRAMES)
            ],
            origins=[ImageOrigin(f"request-{number}", 0.99, 48, 48, 90, None)] * FRAMES,
        )


def _centres(embedding: int) -> NDArray[np.float32]:
    centres = np.random.default_rng(0).normal(0, 1, (len(SIGNS), embedding)).astype(np.float32)
    return np.asarray(centres / np.linalg.norm(centres, axis=1, keepdims=True))


def _baseline(log: str, centres: NDArray[np.float32]) -> Baseline:
    """Returns a baseline of maximum size, with an estimate of the accuracy."""
    frame = read_frame(log)
    model = Model(*frame[["model_version", "class_list"]].iloc[0])
    stream, _ = observe(frame, centres, model, 0)
    classes = len(SIGNS)
    correct = np.random.default_rng(2).random(len(stream)) < 0.97
    names = np.where(np.arange(len(stream)) % 2, "", "fog 1")
    fitted = accuracy.fit(stream.values, correct, names, stream.cluster)
    knowledge = Knowledge(centres, np.eye(classes, dtype=np.float32), *fitted, np.array(0.01))
    origin = Origin("reference", now(), "benchmark", log, *model, list(SIGNS.names), len(stream))
    return Baseline.of(stream, origin, knowledge)


if __name__ == "__main__":
    typer_main(app)
