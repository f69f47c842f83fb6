"""Measures throughput and latency of this service, of other services, and the upper bound without HTTP.

    uv run --group litserve python -m benchmarks.serving data.raw_dir=../shared/gtsrb

wrk (Debian and Homebrew package `wrk`) sends forms with one PNG image of median size over loopback. It runs on the same
cores. There are two models: SignNet, and SignNet with width 12, which needs a quarter of the MACs. Both are
untrained, because the weights do not affect the time. LitServe and BentoML first run for a few seconds with each of
several settings; only the fastest setting is measured. The upper bound is a loop that decodes and classifies: in one
thread, in one thread per core, and in one process per core. Results are medians of three trials. Writes
benchmarks/results/serving.csv.
"""

import http.client
import io
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import psutil
import typer

from benchmarks.environment import UPPER_BOUND, Row, write_results
from src.mlops import ROOT
from src.mlops.cli import Overrides, new_app, typer_main
from src.mlops.config import Config, load_config
from src.mlops.data.gtsrb import SIGNS
from src.mlops.errors import ServiceError
from src.mlops.evaluation.parity import images_of
from src.mlops.inference.classifier import Classifier
from src.mlops.io.service_process import EndingSignals, free_port, with_port
from src.mlops.model import build_model
from src.mlops.modelfile.calibration import Calibration
from src.mlops.modelfile.checkpoint import provenance, save_checkpoint
from src.mlops.modelfile.onnx_export import export
from src.mlops.preprocessing import open_image

app = new_app()

TRIALS, SECONDS, CONCURRENCIES = 3, 4, (1, 8, 32, 128)
CORES = os.cpu_count() or 1
BOUNDARY = "serving-benchmark"
KIND = f"multipart/form-data; boundary={BOUNDARY}"
START_TIMEOUT = 60.0  # seconds


@dataclass(frozen=True)
class Server:
    """A service to measure.

    Attributes:
        name: The name. Of several servers with the same name, only the fastest is fully measured.
        setting: Description of the settings.
        command: The command line; each word that is exactly `{port}` is replaced by the port.
        environment: Environment variables in addition to `MLOPS_MODEL`.
    """

    name: str
    setting: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def servers() -> list[Server]:
    """Returns all servers to compare."""
    python = [sys.executable, "-m"]
    contenders = "benchmarks.contenders"
    ours = [*python, "src.mlops.api", "--port", "{port}"]
    plain = [*python, "uvicorn", f"{contenders}.fastapi_torch:app", "--port", "{port}", "--no-access-log"]
    bento = [*python, "bentoml", "serve", f"{contenders}.bento:Signs", "-p", "{port}"]
    found = [
        Server("this service, 1 worker", "", [*ours, "--workers", "1"]),
        Server(f"this service, {CORES} workers", "", [*ours, "--workers", str(CORES)]),
        Server(
            "this service, no micro-batching",
            f"{CORES} workers",
            [*ours, "--workers", str(CORES)],
            {"MLOPS_MICRO_BATCH": "1"},
        ),
        Server("FastAPI and eager torch", "", plain),
    ]
    for workers in sorted({1, CORES}):
        for batch in (1, 16):
            setting = f"workers {workers}, batches of at most {batch}"
            lit = [*python, f"{contenders}.lit", "{port}", str(workers), str(batch)]
            found.append(Server("LitServe", setting, lit))
            found.append(Server("BentoML", setting, bento, {"WORKERS": str(workers), "BATCH": str(batch)}))
    return found


@app.command()
def main(
    overrides: Overrides,
    trials: Annotated[int, typer.Option(help="Number of trials for each server.")] = TRIALS,
    seconds: Annotated[int, typer.Option(help="Duration of a trial.")] = SECONDS,
) -> None:
    """Measures every server with both models."""
    require_wrk()
    config = load_config(overrides)
    png = median_png(config)
    with tempfile.TemporaryDirectory() as folder:
        form = write_form(Path(folder), png)
        for width in (24, 12):
            model, path = f"SignNet, width {width}", _model(config, width, Path(folder))
            rows = _upper_bounds(path, png, trials)
            for server in _fastest_settings(form, path):
                rows += _measure(server, form, path, trials, seconds)
            write_results(
                "serving",
                [{"model": model, "png_bytes": len(png), **row} for row in rows],
                ("model", "way", "concurrency"),
            )


def require_wrk() -> None:
    """Checks that the load generator wrk is installed.

    Raises:
        ServiceError: wrk is not installed.
    """
    if not shutil.which("wrk"):
        raise ServiceError(
            "The load generator wrk is not installed. Install it with `apt install wrk` or `brew install wrk`."
        )


def median_png(config: Config) -> bytes:
    """Returns the validation image whose PNG file has the median size, as the bytes of this file."""
    sizes = []
    for path in images_of(config)[::10]:
        file = io.BytesIO()
        open_image(path).save(file, "PNG")
        sizes.append(file.getvalue())
    return sorted(sizes, key=len)[len(sizes) // 2]


def _model(config: Config, width: int, folder: Path) -> Path:
    config = config.replace({"model.width": width})
    path = folder / str(width) / "best_model.pth"
    save_checkpoint(
        path,
        state_dict=build_model(config.model, len(SIGNS)).state_dict(),
        config=config.to_dict(),
        classes=SIGNS,
        epoch=1,
        metrics={},
        provenance=provenance("none", 0),
        calibration=Calibration(),
        history=[],
    )
    return export(path)


def write_form(folder: Path, png: bytes, pause_ms: float = 0) -> Path:
    """Writes the request body for wrk (`body`) and its script (`post.lua`) to a folder.

    Args:
        folder: The folder.
        png: The image to send.
        pause_ms: Mean time that each connection waits before a request; the time is random.

    Returns:
        The folder.
    """
    wait = f"delay = function() return math.random(0, {round(2 * pause_ms)}) end" if pause_ms else ""
    (folder / "body").write_bytes(form_body("file", [png]))
    (folder / "post.lua").write_text(
        f"""
        wrk.method = "POST"
        wrk.headers["Content-Type"] = "{KIND}"
        local file = io.open("{folder / "body"}", "rb"); wrk.body = file:read("*a"); file:close()
        {wait}
        done = function(summary, latency, requests)
          local e = summary.errors
          local form = '{{"requests": %d, "microseconds": %d, "errors": %d, "p50": %f, "p95": %f, "p99": %f}}\\n'
          local errors = e.connect + e.read + e.write + e.status + e.timeout
          io.write(string.format(form, summary.requests, summary.duration, errors,
            latency:percentile(50), latency:percentile(95), latency:percentile(99)))
        end
        """
    )
    return folder


def form_body(part: str, images: list[bytes]) -> bytes:
    """Builds a multipart form with one part per image, all with the name `part`."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{part}"; filename="sign.png"\r\n\r\n'
    return b"".join(head.encode() + image + b"\r\n" for image in images) + f"--{BOUNDARY}--\r\n".encode()


def _upper_bounds(model: Path, png: bytes, trials: int) -> list[Row]:
    ways: dict[str, Callable[[], float]] = {
        f"{UPPER_BOUND}, 1 thread": lambda: _in_threads(model, png, 1),
        f"{UPPER_BOUND}, {CORES} threads": lambda: _in_threads(model, png, CORES),
        f"{UPPER_BOUND}, {CORES} processes": lambda: _in_processes(model, png),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(trials):
        for way, run in ways.items():
            found[way].append(run())
    rows = []
    for way, rates in found.items():
        alone = way == f"{UPPER_BOUND}, 1 thread"
        rate = statistics.median(rates)
        figures = {"images_per_second": rate, "slowest": min(rates), "p50_ms": 1000 / rate if alone else None}
        rows.append(_row(way, "", 1 if alone else CORES, trials, **figures))
    return rows


def _in_threads(model: Path, png: bytes, threads: int) -> float:
    classifier = Classifier.load(model)
    workers = [threading.Thread(target=_classify, args=(classifier, png, 1500)) for _ in range(threads)]
    classifier.classify([png] * 50)
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return 1500 * threads / (time.perf_counter() - started)


def _in_processes(model: Path, png: bytes) -> float:
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        pool.starmap(_timed, [(model, png, 50)] * CORES)  # starts the processes
        return sum(pool.starmap(_timed, [(model, png, 1500)] * CORES, chunksize=1))


def _timed(model: Path, png: bytes, count: int) -> float:
    classifier = Classifier.load(model)
    classifier.classify([png] * 50)
    started = time.perf_counter()
    _classify(classifier, png, count)
    return count / (time.perf_counter() - started)


def _classify(classifier: Classifier, png: bytes, count: int) -> None:
    for _ in range(count):
        classifier.classify([png])


def _fastest_settings(form: Path, model: Path) -> list[Server]:
    """Measures servers with the same name for a short time with 32 connections. Returns the fastest of each name."""
    by_name: dict[str, list[Server]] = {}
    for server in servers():
        by_name.setdefault(server.name, []).append(server)
    best = []
    for name, candidates in by_name.items():
        rates = []
        for candidate in candidates if len(candidates) > 1 else []:
            with started(candidate, model, form) as (port, _, _):
                rates.append(load(form, port, 32, 3)["images_per_second"])
            sys.stderr.write(f"  {name}, {candidate.setting}: {rates[-1]:.0f}/s\n")
        best.append(candidates[rates.index(max(rates))] if rates else candidates[0])
    return best


def _measure(server: Server, form: Path, model: Path, trials: int, seconds: int) -> list[Row]:
    runs: dict[int, list[dict[str, float]]] = {concurrency: [] for concurrency in CONCURRENCIES}
    with started(server, model, form) as (port, process, start_seconds):
        for _ in range(trials):
            for concurrency in CONCURRENCIES:
                runs[concurrency].append(load(form, port, concurrency, seconds))
        resident = resident_mb(process)
    rows = []
    for concurrency, found in runs.items():
        medians = {name: statistics.median(run[name] for run in found) for name in found[0]}
        slowest = min(run["images_per_second"] for run in found)
        medians["errors"] = sum(run["errors"] for run in found)
        memory = {"resident_mb": round(sum(resident)), "largest_process_mb": round(max(resident))}
        rows.append(
            _row(
                server.name,
                server.setting,
                concurrency,
                trials,
                slowest=slowest,
                start_seconds=round(start_seconds, 2),
                **medians,
                **memory,
            )
        )
        sys.stderr.write(
            f"{server.name}, {concurrency}: {medians['images_per_second']:.0f}/s, p50 {medians['p50_ms']:.2f} ms\n"
        )
    return rows


def resident_mb(process: psutil.Process) -> list[float]:
    """Returns the RSS in MB of a process and of each of its descendants."""
    found = []
    for member in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            found.append(member.memory_info().rss / 1e6)
    return found


def _row(way: str, setting: str, concurrency: int, trials: int, **figures: float | None) -> Row:
    names = [
        "images_per_second",
        "slowest",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "errors",
        "resident_mb",
        "largest_process_mb",
        "start_seconds",
    ]
    rounded = {
        name: round(value, 2 if name.endswith("ms") or "start" in name else 0)
        if (value := figures.get(name)) is not None
        else ""
        for name in names
    }
    return {"way": way, "setting": setting, "concurrency": concurrency, "trials": trials, **rounded}


@contextmanager
def started(server: Server, model: Path, form: Path) -> Iterator[tuple[int, psutil.Process, float]]:
    """Starts a server and stops it at the end.

    Args:
        server: The server.
        model: The model file.
        form: The folder with the request body.

    Yields:
        The port, the process, and the seconds until the first successful response.

    Raises:
        ServiceError: The server does not start.
    """
    port = free_port()
    environment = {**os.environ, "MLOPS_MODEL": str(model), **server.environment}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log, EndingSignals() as signals:
        service = psutil.Popen(with_port(server.command, port), cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            with signals.raised():
                while not _answers(port, form):
                    if service.poll() is not None or time.perf_counter() - started > START_TIMEOUT:
                        log.seek(0)
                        raise ServiceError(f"{server.name} did not start. The end of its log:\n{log.read()[-2000:]}")
                    time.sleep(0.01)
                yield port, service, time.perf_counter() - started
        finally:
            _stop(service)


def _answers(port: int, form: Path) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/cv_model/", (form / "body").read_bytes(), {"Content-Type": KIND})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(service: psutil.Popen) -> None:
    if service.poll() is not None:
        return
    family = [service, *service.children(recursive=True)]
    service.terminate()
    _, alive = psutil.wait_procs(family, timeout=10)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=10)


def load(form: Path, port: int, concurrency: int, seconds: int) -> dict[str, float]:
    """Runs wrk with the given number of connections and returns its results.

    Args:
        form: The folder that `write_form` filled.
        port: Port of the service on this machine.
        concurrency: Number of connections.
        seconds: Duration.

    Returns:
        `images_per_second`, `errors` and percentiles of the response time such as `p50_ms`.
    """
    command = ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds}s", "--timeout", "10s", "-s", str(form / "post.lua")]
    address = f"http://127.0.0.1:{port}/cv_model/"
    printed = subprocess.run([*command, address], capture_output=True, text=True, check=True).stdout  # noqa: S603
    found = json.loads(printed.splitlines()[-1])
    return {
        "images_per_second": (found["requests"] - found["errors"]) / found["microseconds"] * 1e6,
        "errors": found["errors"],
        **{f"{name}_ms": found[name] / 1000 for name in ("p50", "p95", "p99")},
    }


if __name__ == "__main__":
    typer_main(app)
