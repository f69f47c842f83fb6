"""Two revisions of a service whose metrics grow with the traffic, and a clock that nobody waits for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest

from src.mlops.cloud import canary
from src.mlops.config import CanaryConfig
from src.mlops.errors import ServiceError

NEW, OLD = "https://candidate---gtsrb", "https://current---gtsrb"
START = 1000.0  # Unix time in seconds


@dataclass
class Revision:
    """A revision with one instance.

    Attributes:
        errors: Share of requests that fail.
        seconds: Response time of all requests.
        unknown: Share of images that are unknown.
        traffic: Requests of clients between two polls.
        born: Start time of the instance.
        status: Status of its answers to images; above 499, the service itself is not reached.
    """

    errors: float = 0.0
    seconds: float = 0.02
    unknown: float = 0.0
    traffic: int = 0
    born: float = 500.0
    status: int = 200
    requests: int = field(default=1000, init=False)  # before the comparison
    sent: int = field(default=0, init=False)
    readable: bool = True

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            return httpx.Response(200 if self.readable else 404, text=self.metrics(), request=request)
        self.sent += 1
        if self.status < 500:
            self.requests += 1
        return httpx.Response(self.status, json={}, request=request)

    def metrics(self) -> str:
        bad = round(self.errors * (self.requests - 1000))
        limits = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
        buckets = "".join(
            f'mlops_request_seconds_bucket{{route="/cv_model/",le="{limit}"}} '
            f"{self.requests if limit >= self.seconds else 0}\n"
            for limit in limits
        )
        return (
            f"process_start_time_seconds {self.born}\n"
            f'mlops_requests_total{{route="/cv_model/",status="200"}} {self.requests - bad}\n'
            f'mlops_requests_total{{route="/cv_model/",status="500"}} {bad}\n'
            f'mlops_requests_total{{route="/metrics",status="200"}} 99999\n'
            f'mlops_request_seconds_bucket{{route="/metrics",le="+Inf"}} 99999\n'
            f'{buckets}mlops_request_seconds_bucket{{route="/cv_model/",le="+Inf"}} {self.requests}\n'
            f'mlops_predictions_total{{class_id="1",class_name="x"}} {self.requests}\n'
            f"mlops_unknown_total {round(self.unknown * (self.requests - 1000))}\n"
        )


@dataclass
class Comparison:
    """What a comparison did.

    Attributes:
        polls: How often it waited.
        refused: Why the new revision was refused; empty if it was not.
    """

    polls: int = 0
    refused: str = ""


def compared(
    new: Revision, old: Revision, limits: CanaryConfig, headers: Mapping[str, str] | None = None
) -> Comparison:
    """Compares two revisions."""
    done, now = Comparison(), [0.0]

    def sleep(seconds: float) -> None:
        done.polls += 1
        now[0] += seconds
        for revision in (new, old):
            revision.requests += revision.traffic

    def answer(request: httpx.Request) -> httpx.Response:
        for name, value in (headers or {}).items():
            assert request.headers[name] == value
        return (new if str(request.url).startswith(NEW) else old).answer(request)

    class Client(httpx.Client):
        def __init__(self, **options: Any) -> None:
            super().__init__(transport=httpx.MockTransport(answer), **options)

    clock = SimpleNamespace(sleep=sleep, monotonic=lambda: now[0], time=lambda: START)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canary.httpx, "Client", Client)
        patch.setattr(canary, "time", clock)
        patch.setattr("tenacity.nap.time.sleep", lambda _: None)
        try:
            canary.compare(NEW, OLD, headers or {}, limits)
        except ServiceError as error:
            done.refused = str(error)
    return done
