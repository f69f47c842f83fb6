"""What every result says about where it was measured, and how results are kept."""

import argparse
import csv
import io
import logging
import multiprocessing
import os
import platform
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from src.mlops.errors import MlopsError, report
from src.mlops.files import write_atomically
from src.mlops.model import choose_device

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def environment() -> Row:
    """Returns the date, hardware, threads and versions."""
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
    """Returns the largest resident set of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.is_file():  # the other way counts what the parent process had as well
        peak_kb = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak_kb.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if platform.system() == "Darwin" else peak / 1e3


def in_new_process(work: Callable[..., Row], *arguments: Any) -> Row:
    """Calls a function in a fresh process, so that its memory is its own; adds `peak_memory_mb` to what it returns."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, work, arguments).result()


def write_results(name: str, rows: list[Row], key: tuple[str, ...]) -> None:
    """Writes rows, each with its environment, to `results/NAME.csv`; rows of other keys stay.

    Args:
        name: File name without suffix.
        rows: All with the same columns.
        key: Columns that tell rows apart; a new row replaces the old one of the same key.
    """
    path = RESULTS / f"{name}.csv"
    new = [{**row, **environment()} for row in rows]
    replaced = {tuple(str(row[column]) for column in key) for row in new}
    old = [row for row in read_results(name) if tuple(row.get(column) for column in key) not in replaced]
    text = io.StringIO()
    writer = csv.DictWriter(text, new[0], restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows([*old, *new])
    write_atomically(path, text.getvalue().encode())
    sys.stderr.write(f"wrote {path}\n")


def read_results(name: str) -> list[dict[str, str]]:
    """Reads `results/NAME.csv`; an absent file has no rows."""
    path = RESULTS / f"{name}.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def parse(parser: argparse.ArgumentParser, words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Splits a command line into a benchmark's own options and Hydra overrides, such as `seed=1`."""
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    return parser.parse_args([word for word in words if word not in overrides]), overrides


def command_line(main: Callable[[list[str]], None]) -> None:
    """Runs a benchmark with the words of the command line; an error of the project is one message."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        main(sys.argv[1:])
    except MlopsError as error:
        report(error)


def _measured(work: Callable[..., Row], arguments: tuple[Any, ...]) -> Row:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    row = work(*arguments)
    return row | {"peak_memory_mb": round(peak_memory_mb())}


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
