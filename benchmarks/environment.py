"""Records the environment of measurements, and reads and writes the result files."""

import csv
import io
import multiprocessing
import os
import platform
import resource
import sys
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from src.mlops import ROOT
from src.mlops.errors import ConfigError
from src.mlops.io.files import write_atomically
from src.mlops.io.logs import start_logging
from src.mlops.model import choose_device

RESULTS = Path(__file__).parent / "results"
KEPT = ROOT / "models" / "benchmarks"  # models and reports of the benchmarks that train
# Names of measurements without the part that a benchmark is about; benchmarks.tables compares the others with them.
UPPER_BOUND = "upper bound (no HTTP)"
DECODE_AND_INFER = "decode + inference only"
Row = dict[str, Any]


def names_and_overrides(words: list[str], known: Collection[str], what: str) -> tuple[list[str], list[str]]:
    """Divides the words of a command line into names and Hydra overrides.

    Args:
        words: The words.
        known: The names that there are.
        what: What they name, for the error.

    Raises:
        ConfigError: A name does not exist.
    """
    names = [word for word in words if "=" not in word]
    if unknown := set(names) - set(known):
        raise ConfigError(f"{what} {unknown.pop()!r} does not exist; choose from {', '.join(known)}.")
    return names, [word for word in words if "=" in word]


def environment() -> Row:
    """Returns the current date, hardware, number of threads and versions."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "device": choose_device("auto").type,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def peak_memory_mb() -> float:
    """Returns the peak RSS of this process in MB."""
    status = Path("/proc/self/status")
    if status.is_file():  # `getrusage` below includes memory of the parent process
        peak_kb = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak_kb.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if platform.system() == "Darwin" else peak / 1e3


def in_new_process(work: Callable[..., Row], *arguments: Any) -> Row:
    """Calls a function in a new process, which isolates its memory, and adds `peak_memory_mb` to the returned row."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, work, arguments).result()


def write_results(name: str, rows: list[Row], key: tuple[str, ...]) -> None:
    """Writes rows with the environment to `results/NAME.csv`. Existing rows with other keys stay.

    Several processes can write to the same file.

    Args:
        name: File name without suffix.
        rows: The rows, all with the same columns.
        key: Columns that identify a row. A new row replaces the old row with the same values in these columns.
    """
    path = RESULTS / f"{name}.csv"
    new = [{**row, **environment(), **row} for row in rows]  # a row can name its own device
    replaced = {tuple(str(row[column]) for column in key) for row in new}
    text = io.StringIO()
    writer = csv.DictWriter(text, new[0], restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    with FileLock(path.with_name(f".{name}.lock")):  # otherwise rows of another process could be lost
        old = [row for row in read_results(name) if tuple(row.get(column) for column in key) not in replaced]
        writer.writerows([*old, *new])
        write_atomically(path, text.getvalue().encode())
    sys.stderr.write(f"Wrote {path}\n")


def read_results(name: str) -> list[dict[str, str]]:
    """Reads the rows of `results/NAME.csv`; none if the file does not exist."""
    path = RESULTS / f"{name}.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _measured(work: Callable[..., Row], arguments: tuple[Any, ...]) -> Row:
    start_logging()
    row = work(*arguments)
    return row | {"peak_memory_mb": round(peak_memory_mb())}


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
