"""Compares two running services with each other: load in alternating order, and what it costs."""

import http.client
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import psutil

from benchmarks.serving import Server, started, write_form
from src.mlops import ROOT
from src.mlops.modelfile.locate import BUNDLED

CONNECTIONS = 32
_PREDICTIONS = re.compile(r"^mlops_predictions_total\{.*\} (\S+)$", re.MULTILINE)


class Measured(Protocol):
    """A measured run."""

    @property
    def rate(self) -> float:
        """Images per second."""


T = TypeVar("T", bound=Measured)


@dataclass(frozen=True)
class Service:
    """A running service: its port and its main process."""

    port: int
    process: psutil.Process


def get(service: Service, path: str) -> str:
    """Returns the text at a path of a service."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def answered(metrics: str) -> float:
    """Returns the number of classified images in the metrics of a service."""
    return sum(map(float, _PREDICTIONS.findall(metrics)))


def cpu_seconds(service: Service) -> float:
    """Returns the CPU time that the processes of a service have used."""
    family = [service.process, *service.process.children(recursive=True)]
    times = [member.cpu_times() for member in family]
    return sum((float(one.user) + float(one.system) for one in times), 0.0)


def write_load(folder: str, name: str, png: bytes, rate: float | None = None) -> Path:
    """Writes the requests of a load to a new folder.

    Args:
        folder: Where the new folder is created.
        name: Its name.
        png: The image of all requests.
        rate: Images per second; connections wait for random times to reach it. None: as many as possible.
    """
    path = Path(folder, name)
    path.mkdir()
    return write_form(path, png, 1000 * CONNECTIONS / rate - 5 if rate else 0)  # about 5 ms for the response


@contextmanager
def with_and_without(name: str, settings: dict[str, str], png: bytes) -> Iterator[dict[bool, Service]]:
    """Runs two services with the bundled model and one worker, one of them (True) with something that costs time.

    Args:
        name: What it is, for messages.
        settings: The variables that switch it on.
        png: An image that both services answer before they are measured.
    """
    command = [sys.executable, "-m", "src.mlops.api", "--port", "{port}", "--workers", "1"]
    model = ROOT / BUNDLED
    with tempfile.TemporaryDirectory() as folder:
        form = write_load(folder, "full", png)
        with (
            started(Server(f"with {name}", "", command, settings), model, form) as (port, process, _),
            started(Server(f"without {name}", "", command), model, form) as (other_port, other, _),
        ):
            yield {True: Service(port, process), False: Service(other_port, other)}


def at_both_loads(
    services: dict[bool, Service],
    png: bytes,
    pairs: int,
    run: Callable[[Service, Path], T],
    describe: Callable[[T, T], str],
) -> dict[str, list[dict[bool, T]]]:
    """Measures both services in alternating order, at half of the maximum load and at the maximum.

    Args:
        services: What `with_and_without` yields.
        png: The image of all requests.
        pairs: Number of pairs of runs at each load.
        run: Sends the requests of a folder to a service, and measures it.
        describe: Formats the runs with and without it for the terminal.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        full = write_load(folder, "full", png)
        fastest = max(run(services[False], full).rate for _ in range(2))
        for load, form in (("half", write_load(folder, "half", png, fastest / 2)), ("maximum", full)):
            found[load] = [_pair(number, services, form, run) for number in range(pairs)]
            for pair in found[load]:
                sys.stderr.write(f"{describe(pair[True], pair[False])}\n")
    return found


def _pair(number: int, services: dict[bool, Service], form: Path, run: Callable[[Service, Path], T]) -> dict[bool, T]:
    order = (True, False) if number % 2 else (False, True)
    return {is_on: run(services[is_on], form) for is_on in order}


def median(runs: list[T], figure: str) -> float:
    """Returns the median of one figure of the runs."""
    return round(float(statistics.median(getattr(one, figure) for one in runs)), 3)
