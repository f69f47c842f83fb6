"""Compares two running services with each other: load in alternating order, and what it costs."""

import http.client
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from benchmarks.serving import write_form

CONNECTIONS = 32
_PREDICTIONS = re.compile(r"^mlops_predictions_total\{.*\} (\S+)$", re.MULTILINE)
T = TypeVar("T")


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


def alternate(pairs: int, run: Callable[[bool], T]) -> list[dict[bool, T]]:
    """Measures a service with and without something, `pairs` times in alternating order."""
    found = []
    for number in range(pairs):
        order = (True, False) if number % 2 else (False, True)
        found.append({is_on: run(is_on) for is_on in order})
    return found
