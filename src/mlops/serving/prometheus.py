"""The Prometheus metrics at `/metrics`. With several workers, shared files let each worker report all metrics."""

import functools
import logging
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from src.mlops.inference.classifier import Classifier, Prediction
from src.mlops.monitoring.labels import Label, Source, Verdict
from src.mlops.monitoring.prediction_log import OUTCOMES
from src.mlops.serving.shared import FOLDER_VARIABLE, dead_workers

logger = logging.getLogger(__name__)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SHADOW_OUTCOMES = ("agreed", "disagreed", "dropped", "failed")
_SHARES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1)

_REQUESTS = Counter("mlops_requests", "Requests by route and status", ["route", "status"])
_REQUEST_SECONDS = Histogram(
    "mlops_request_seconds", "Seconds from the headers of a request to its response", ["route"], buckets=_SECONDS
)
_STAGE_SECONDS = Histogram(
    "mlops_stage_seconds", "Seconds of each processing stage of an image", ["stage"], buckets=_SECONDS
)
DECODE, QUEUE, INFERENCE = (_STAGE_SECONDS.labels(stage) for stage in ("decode", "queue", "inference"))
BATCH_SIZE = Histogram("mlops_batch_size", "Images per batch of the network", buckets=(1, 2, 4, 8, 16, 32, 64))
QUEUE_DEPTH = Gauge("mlops_queue_depth", "Images that wait or are being processed", multiprocess_mode="livesum")
UNKNOWN = Counter("mlops_unknown", "Images classified as unknown")
MODEL = Gauge("mlops_model_info", "1 for the version of the loaded model", ["version"], multiprocess_mode="livemax")
_CREATED = Gauge(
    "mlops_model_created_seconds", "Unix time when the model was trained; 0 if unknown", multiprocess_mode="livemax"
)
_RELOADS = Counter("mlops_reloads", "Attempts to reload the model by outcome", ["outcome"])
# Created at the start, because an alert needs a 0 before the first refusal.
SWAPPED, REFUSED = (_RELOADS.labels(outcome) for outcome in ("swapped", "refused"))
_CONFIDENCE = Histogram("mlops_confidence", "Probability of the predicted class", buckets=_SHARES)
_LOG = {
    "records": Counter("mlops_log_records", "Records of the prediction log by outcome", ["outcome"]),
    "images": Counter("mlops_log_images", "Images of the prediction log by outcome", ["outcome"]),
    "uploads": Counter("mlops_log_uploads", "Uploads of files of the prediction log by outcome", ["outcome"]),
}
_RETRAININGS = Counter("mlops_retrainings", "Notifications of alerts by what came of them", ["outcome"])
_LABELS = Counter("mlops_labels", "Stored labels of recorded images by source and verdict", ["source", "verdict"])
_VERDICTS: dict[Source, tuple[Verdict, ...]] = {"feedback": ("class", "none"), "review": get_args(Verdict)}
# The series of the shadow start with its first model: without a shadow, there are none.
_SHADOW = Gauge("mlops_shadow_info", "1 for the version of the shadow", ["version"], multiprocess_mode="livemax")
_SHADOW_RELOADS = Counter("mlops_shadow_reloads", "Attempts to load the model of the shadow", ["outcome"])
_SHADOW_IMAGES = Counter("mlops_shadow_images", "Images offered to the shadow by outcome", ["version", "outcome"])
_SHADOW_UNKNOWN = Counter("mlops_shadow_unknown", "Images that the shadow classified as unknown", ["version"])
_SHADOW_SECONDS = Histogram(
    "mlops_shadow_seconds", "Seconds of the shadow's network per image", ["version"], buckets=_SECONDS
)
_PREDICTIONS = Counter("mlops_predictions", "Predictions by class", ["class_id", "class_name"])


@functools.cache  # looking up the series is slow, and there are few routes and statuses
def _series(route: str, status: int) -> tuple[Counter, Histogram]:
    return _REQUESTS.labels(route, status), _REQUEST_SECONDS.labels(route)


def count_request(route: str, status: int, seconds: float) -> None:
    """Counts a request.

    Args:
        route: The route's path template.
        status: HTTP status of the response.
        seconds: Time from the request's headers to the end of the response.
    """
    requests, durations = _series(route, status)
    requests.inc()
    durations.observe(seconds)


@functools.cache
def _predictions(class_id: int, name: str) -> Counter:
    return _PREDICTIONS.labels(class_id, name)


def show_model(new: Classifier, previous: Classifier | None) -> None:
    """Shows which model is loaded and when it was trained, and starts the counters of its classes at 0."""
    if previous:
        MODEL.labels(previous.version).set(0)
    MODEL.labels(new.version).set(1)
    _CREATED.set(_unix_time(new.info.provenance.get("created")))
    for entry in new.info.classes:
        _predictions(entry.class_id, entry.name)


def _unix_time(created: object) -> float:
    """Returns the time in the provenance of a model, which may come from other tools; 0 if it cannot be read."""
    try:
        moment = datetime.fromisoformat(str(created))
        return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return 0.0


def count(prediction: Prediction) -> None:
    """Counts a prediction."""
    _predictions(prediction.predicted_class, prediction.class_name).inc()
    _CONFIDENCE.observe(prediction.probability)
    if prediction.is_unknown:
        UNKNOWN.inc()


def show_shadow(new: Classifier | None, previous: Classifier | None) -> None:
    """Shows an attempt to load the model of the shadow, and starts the counters of a new one at 0.

    Args:
        new: The new model; None if it was refused.
        previous: The model until now; None if there was none.
    """
    _SHADOW_RELOADS.labels("loaded" if new else "refused").inc()
    if new is None:
        return
    if previous:
        _SHADOW.labels(previous.version).set(0)
    _SHADOW.labels(new.version).set(1)
    for outcome in SHADOW_OUTCOMES:
        _SHADOW_IMAGES.labels(new.version, outcome)
    _SHADOW_UNKNOWN.labels(new.version)
    _SHADOW_SECONDS.labels(new.version)


def count_shadow(version: str, outcome: str, number: int) -> None:
    """Counts images that were offered to the shadow, by one of `SHADOW_OUTCOMES`."""
    _SHADOW_IMAGES.labels(version, outcome).inc(number)


def observe_shadow(served: Sequence[Prediction], shadow: Sequence[Prediction], seconds: float) -> None:
    """Counts the answers of the shadow.

    Args:
        served: The answers of the model in service, at least one.
        shadow: The answers of the shadow to the same images.
        seconds: Seconds of its network per image.
    """
    version = shadow[0].model_version
    agreed = sum(one.predicted_class == other.predicted_class for one, other in zip(served, shadow, strict=True))
    count_shadow(version, "agreed", agreed)
    count_shadow(version, "disagreed", len(shadow) - agreed)
    _SHADOW_UNKNOWN.labels(version).inc(sum(prediction.is_unknown for prediction in shadow))
    _SHADOW_SECONDS.labels(version).observe(seconds)


def show_log() -> None:
    """Starts the counters of the prediction log and its labels at 0, so that the first lost record is an increase."""
    for kind, outcomes in OUTCOMES.items():
        for outcome in outcomes:
            _LOG[kind].labels(outcome)
    for source, verdicts in _VERDICTS.items():
        for verdict in verdicts:
            _LABELS.labels(source, verdict)


def count_log(kind: str, outcome: str, number: int) -> None:
    """Counts `records`, `images` or `uploads` of the prediction log."""
    _LOG[kind].labels(outcome).inc(number)


def show_retrainings(outcomes: Iterable[str]) -> None:
    """Starts the counters of notifications at 0, so that the first failure is an increase."""
    for outcome in outcomes:
        _RETRAININGS.labels(outcome)


def count_retraining(outcome: str) -> None:
    """Counts a notification of Alertmanager."""
    _RETRAININGS.labels(outcome).inc()


def count_label(label: Label) -> None:
    """Counts a label that was stored."""
    _LABELS.labels(label.source, label.verdict).inc()


def exposition() -> bytes:
    """Returns the metrics of all workers in Prometheus' text format."""
    if FOLDER_VARIABLE not in os.environ:
        return generate_latest()
    try:
        for pid in dead_workers():  # removes their gauges; their counters stay
            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    except (OSError, ValueError) as error:  # for example, a cleaner of temporary files removed the folder
        logger.warning("Cannot read the metrics of all workers: %s. /metrics shows only one worker.", error)
        return generate_latest()
