"""Compares a new revision with the current one while both get traffic, and refuses it if it is worse."""

import io
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpx2 as httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from src.mlops.config import CanaryConfig
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.synthetic.camera import photograph_track
from src.mlops.data.synthetic.drawing import draw_sign
from src.mlops.errors import ServiceError

logger = logging.getLogger("src.mlops.cloud.canary")
Compare = Callable[[str, str, Mapping[str, str], CanaryConfig], object]
POLL_SECONDS = 15.0
AT_ONCE = 20  # requests that are sent to each revision if a poll finds no traffic
NOISE_SECONDS = 0.05  # a 99th percentile below this is never too slow: the buckets are coarse
_ROUTE = "/cv_model"
_Values = dict[tuple[str, str], float]  # value by kind and, for a bucket, upper limit in seconds


@dataclass
class Meter:
    """What a revision did since `started`. Its counters start at 0 in each instance, and instances come and go.

    Attributes:
        started: Unix time in seconds. An instance that started later is counted from 0, others from their first values.
        first: First values by instance.
        last: Last values by instance.
        failed: Requests of this program that failed. The service does not count those that Cloud Run itself answered.
    """

    started: float
    first: dict[str, _Values] = field(default_factory=dict)
    last: dict[str, _Values] = field(default_factory=dict)
    failed: int = 0

    def read(self, exposition: str) -> None:
        """Adds the content of `/metrics` of one instance."""
        instance, values = _parse(exposition)
        self.first.setdefault(instance, {} if float(instance or 0) > self.started else values)
        self.last[instance] = values

    def total(self, kind: str) -> float:
        """Returns the increase of `requests`, `errors`, `images` or `unknown`."""
        return sum(increase for (name, _), increase in self._increases() if name == kind)

    @property
    def error_share(self) -> float:
        """Share of responses with a status of 500 or above."""
        return max(self.total("errors"), self.failed) / max(self.total("requests"), self.failed, 1)

    @property
    def unknown_share(self) -> float:
        """Share of images classified as unknown."""
        return self.total("unknown") / max(self.total("images"), 1)

    @property
    def slowest(self) -> float:
        """99th percentile of the response time in seconds, interpolated in its bucket; NaN without requests."""
        buckets: dict[float, float] = {}
        for (name, limit), increase in self._increases():
            if name == "seconds":
                buckets[float(limit)] = buckets.get(float(limit), 0) + increase
        wanted = 0.99 * buckets.get(math.inf, 0)
        lower, below = 0.0, 0.0
        for upper, count in sorted(buckets.items()):
            if count >= wanted > 0:
                return lower if math.isinf(upper) else lower + (upper - lower) * (wanted - below) / (count - below)
            lower, below = upper, count
        return math.nan

    def _increases(self) -> list[tuple[tuple[str, str], float]]:
        return [
            (key, value - self.first[instance].get(key, 0))
            for instance, values in self.last.items()
            for key, value in values.items()
        ]


def compare(candidate: str, current: str, headers: Mapping[str, str], limits: CanaryConfig) -> None:
    """Watches two revisions until the new one got enough requests, and compares them.

    If there is no traffic, or too little of it by the end, both get the same synthetic images.

    Args:
        candidate: Address of the new revision.
        current: Address of the current revision.
        headers: Headers with which both can be called.
        limits: Duration, number of requests, and how much worse the new revision can be.

    Raises:
        ServiceError: The new revision is worse than the current one, or cannot be read.
    """
    meters = {candidate: Meter(time.time()), current: Meter(time.time())}
    new, old = meters.values()
    with httpx.Client(headers=dict(headers), timeout=30) as client:
        deadline = time.monotonic() + limits.minutes * 60
        known = _read(client, meters)
        while max(new.total("requests"), new.failed) < limits.requests and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            if _read(client, meters) == known:
                _send(client, meters, AT_ONCE)
            known = _read(client, meters)
        _send(client, meters, int(limits.requests - max(new.total("requests"), new.failed)))
        _read(client, meters)
    logger.info("New revision: %s; current revision: %s", _summary(new), _summary(old))
    if reasons := judge(new, old, limits):
        raise ServiceError(f"The new revision is worse than the current one: {'; '.join(reasons)}.")


def judge(new: Meter, old: Meter, limits: CanaryConfig) -> list[str]:
    """Returns the reasons against a new revision; an empty list if it is good enough."""
    reasons = []
    if new.error_share > old.error_share + limits.max_error_increase:
        reasons.append(f"{new.error_share:.1%} of its responses are server errors, instead of {old.error_share:.1%}")
    if new.slowest > max(limits.max_slowdown * old.slowest, NOISE_SECONDS):
        reasons.append(f"its 99th percentile is {new.slowest:.3f} s, instead of {old.slowest:.3f} s")
    if new.unknown_share > old.unknown_share + limits.max_unknown_increase:
        reasons.append(f"{new.unknown_share:.1%} of its images are unknown, instead of {old.unknown_share:.1%}")
    return reasons


def _summary(meter: Meter) -> str:
    return (
        f"{meter.total('requests'):.0f} requests, {meter.error_share:.1%} server errors, 99th percentile "
        f"{meter.slowest:.3f} s, {meter.unknown_share:.1%} unknown"
    )


def _read(client: httpx.Client, meters: Mapping[str, Meter]) -> float:
    """Reads the metrics of all revisions. Returns their number of requests."""
    again = retry(
        retry=retry_if_exception_type(httpx.HTTPError), stop=stop_after_attempt(3), wait=wait_fixed(2), reraise=True
    )
    for url, meter in meters.items():
        try:
            meter.read(again(client.get)(f"{url}/metrics").raise_for_status().text)
        except (httpx.HTTPError, ValueError) as error:
            raise ServiceError(f"Cannot read {url}/metrics: {error or type(error).__name__}.") from error
    return sum(meter.total("requests") for meter in meters.values())


def _send(client: httpx.Client, meters: Mapping[str, Meter], number: int) -> None:
    """Sends the same synthetic images to all revisions."""
    images = [_image(index) for index in range(min(number, len(SIGNS)))]
    for index in range(number):
        for url, meter in meters.items():
            try:
                answer = client.post(f"{url}/cv_model/", files={"file": ("sign.png", images[index % len(images)])})
                meter.failed += answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR
            except httpx.HTTPError:
                meter.failed += 1


def _image(class_id: int) -> bytes:
    [frame] = photograph_track(draw_sign(SIGNS[class_id]), np.random.default_rng(class_id), 1)
    file = io.BytesIO()
    frame.image.save(file, "PNG")
    return file.getvalue()


def _parse(exposition: str) -> tuple[str, _Values]:
    """Returns the start time of the instance, which identifies it, and its values."""
    instance, values = "", dict[tuple[str, str], float]()

    def add(kind: str, value: float, limit: str = "") -> None:
        values[kind, limit] = values.get((kind, limit), 0) + value

    for family in text_string_to_metric_families(exposition):
        for name, labels, value, *_ in family.samples:
            if name == "process_start_time_seconds":
                instance = str(value)
            elif name == "mlops_unknown_total":
                add("unknown", value)
            elif name == "mlops_predictions_total":
                add("images", value)
            elif labels.get("route", "").startswith(_ROUTE):
                if name == "mlops_requests_total":
                    add("requests", value)
                    if int(labels["status"]) >= httpx.codes.INTERNAL_SERVER_ERROR:
                        add("errors", value)
                elif name == "mlops_request_seconds_bucket":
                    add("seconds", value, labels["le"])
    return instance, values
