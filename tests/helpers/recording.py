"""Batches of predictions for tests of the prediction log, and a count of what happened to them."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from src.mlops.data.gtsrb import SIGNS
from src.mlops.inference.classifier import Prediction
from src.mlops.io.storage import open_storage
from src.mlops.monitoring.record import Batch, Origin, json_lines
from src.mlops.monitoring.segments import CLOSED, RECORDS, pack_lines
from tests.helpers.images import encode, make_image

PNG = encode(make_image(3, side=40), "PNG")


class Counts:
    """Counts outcomes as the metrics of the service do."""

    def __init__(self) -> None:
        self._lock, self._found = threading.Lock(), Counter[tuple[str, str]]()

    def __call__(self, kind: str, outcome: str, number: int) -> None:
        with self._lock:
            self._found[kind, outcome] += number

    def of(self, kind: str) -> dict[str, int]:
        return {outcome: number for (found, outcome), number in self._found.items() if found == kind and number}


def wait_until(condition: Callable[[], object], seconds: int = 10) -> None:
    for _ in range(100 * seconds):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"the condition was still false after {seconds} s")


def prediction(class_id: int = 1, *, kept: Sequence[int] = (1,), is_unknown: bool = False) -> Prediction:
    name = SIGNS[class_id].name
    return Prediction(class_id, name, None, 0.98765432, [], list(kept), is_unknown, "0123456789ab")


def batch(
    *ids: str,
    predictions: Sequence[Prediction] | None = None,
    content: bytes | None = None,
    moment: float | None = None,
    arrays: NDArray[np.uint8] | None = None,
) -> Batch:
    """Returns a micro-batch with one image for each ID of a request."""
    count, now = len(ids), time.perf_counter()
    if arrays is None:
        arrays = np.stack([np.asarray(make_image(seed, side=24)) for seed in range(count)])
    return Batch(
        time=time.time() if moment is None else moment,
        answered=now,
        classes=SIGNS,
        arrays=arrays,
        embedding=np.linspace(0, 1, count * 6, dtype=np.float32).reshape(count, 6),
        energy=np.linspace(-9, 1, count, dtype=np.float32),
        predictions=predictions or [prediction()] * count,
        origins=[Origin(request_id, now - 0.004, 40, 30, 90, content) for request_id in ids],
    )


def record_lines(*ids: str, moment: float | None = None) -> list[bytes]:
    """Returns the lines of a segment: one record for each ID of a request, whose own ID starts with `record-`."""
    return json_lines([batch(*ids, moment=moment)], (f"record-{name}" for name in ids), [None] * len(ids)).splitlines()


def store_segment(url: str, name: str, lines: Sequence[bytes]) -> str:
    """Writes a closed segment of 2026-11-28, or of the day in its name. Returns its name in the storage."""
    day, _, name = name.rpartition("/")
    stored = f"{RECORDS}/date={day or '2026-11-28'}/20261128T000000.000000Z-{name}-000000{CLOSED}"
    open_storage(url).write(stored, pack_lines(list(lines)))
    return stored


def store_shadowed(url: str, version: str, images: int, *, unknown: int = 0, differing: int = 0) -> None:
    """Writes a segment of today with images that a candidate answered as a shadow.

    Args:
        url: The log.
        version: The version of the candidate.
        images: Number of images, all of which the model in service calls known.
        unknown: How many of them the candidate calls unknown.
        differing: How many of them it puts into another class.
    """
    answers = [
        replace(prediction(2 if number < differing else 1, is_unknown=number < unknown), model_version=version)
        for number in range(images)
    ]
    ids = [f"{version}-{number}" for number in range(images)]
    lines = json_lines([batch(*ids)._replace(shadow=answers)], ids, [None] * images).splitlines()
    store_segment(url, f"{datetime.now(UTC):%Y-%m-%d}/{version}", lines)
