"""What Prometheus reads at `/metrics`; right with several workers too, which write to files that all can read."""

import functools
import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from src.mlops.data.signs import SIGNS
from src.mlops.inference import Prediction

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is imported
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SHARES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1)

_REQUESTS = Counter("mlops_requests", "Requests by route and status", ["route", "status"])
_REQUEST_SECONDS = Histogram(
    "mlops_request_seconds", "From the request's headers to its answer", ["route"], buckets=_SECONDS
)
_STAGE_SECONDS = Histogram("mlops_stage_seconds", "Stages of a picture's way", ["stage"], buckets=_SECONDS)
DECODE, QUEUE, INFERENCE = (_STAGE_SECONDS.labels(stage) for stage in ("decode", "queue", "inference"))
BATCH_SIZE = Histogram(
    "mlops_batch_size", "Pictures that ran through the network at once", buckets=(1, 2, 4, 8, 16, 32, 64)
)
QUEUE_DEPTH = Gauge("mlops_queue_depth", "Pictures that wait or are at work", multiprocess_mode="livesum")
UNKNOWN = Counter("mlops_unknown", "Pictures called no known sign")
MODEL = Gauge("mlops_model_info", "1 for the version that is served", ["version"], multiprocess_mode="livemax")
RELOADS = Counter("mlops_reloads", "Attempts to swap the model", ["outcome"])
_CONFIDENCE = Histogram("mlops_confidence", "Probability of the answered class", buckets=_SHARES)
_PREDICTIONS = Counter("mlops_predictions", "Answers by class", ["class_id"])
_BY_CLASS = [_PREDICTIONS.labels(sign.class_id) for sign in SIGNS]


@functools.cache  # routes and statuses are few, and looking their series up is slow
def _series(route: str, status: int) -> tuple[Counter, Histogram]:
    return _REQUESTS.labels(route, status), _REQUEST_SECONDS.labels(route)


def count_request(route: str, status: int, seconds: float) -> None:
    """Counts an answered request."""
    requests, durations = _series(route, status)
    requests.inc()
    durations.observe(seconds)


def count(prediction: Prediction) -> None:
    """Counts an answer."""
    _BY_CLASS[prediction.predicted_class].inc()
    _CONFIDENCE.observe(prediction.probability)
    if prediction.is_unknown:
        UNKNOWN.inc()


def exposition() -> bytes:
    """Returns all figures in Prometheus' text format, those of all workers together."""
    if FOLDER_VARIABLE not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def forget(process: int, folder: Path) -> None:
    """Drops what a worker that is gone said of itself; what it counted stays."""
    multiprocess.mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]
