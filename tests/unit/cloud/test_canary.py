"""A new revision replaces the current one only if it is not worse."""

import math
import re

import pytest

from src.mlops.cloud.canary import Meter
from src.mlops.config import CanaryConfig
from tests.helpers.revisions import START, Revision, compared
from tests.helpers.tiny import quick_config


@pytest.fixture
def limits() -> CanaryConfig:
    return quick_config().cloud.canary


def test_an_equal_revision_is_accepted_after_enough_requests(limits: CanaryConfig) -> None:
    new, old = Revision(traffic=50), Revision(traffic=450)
    done = compared(new, old, limits)
    assert (done.refused, done.polls) == ("", 4)
    assert (new.sent, old.sent) == (0, 0)  # there is traffic, so nothing is added


def test_without_traffic_both_get_the_same_images(limits: CanaryConfig) -> None:
    new, old = Revision(), Revision()
    assert compared(new, old, limits).refused == ""
    assert (new.sent, old.sent) == (200, 200)


def test_too_little_traffic_is_completed_at_the_end(limits: CanaryConfig) -> None:
    new, old = Revision(traffic=1), Revision(traffic=9)
    done = compared(new, old, limits)
    assert done.polls == 40  # 10 minutes
    assert new.sent == old.sent == 160


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (Revision(errors=0.05, traffic=100), r"5\.0% of its responses are server errors, instead of 0\.0%"),
        (Revision(seconds=0.15, traffic=100), r"99th percentile is 0\.199 s, instead of 0\.020 s"),
        (Revision(unknown=0.4, traffic=100), r"40\.0% of its images are unknown, instead of 0\.0%"),
    ],
)
def test_a_worse_revision_is_refused(limits: CanaryConfig, new: Revision, reason: str) -> None:
    assert re.search(reason, compared(new, Revision(traffic=900), limits).refused)


@pytest.mark.parametrize(
    "old", [Revision(errors=0.05, traffic=900), Revision(seconds=0.15, traffic=900), Revision(unknown=0.4, traffic=900)]
)
def test_a_better_revision_is_accepted(limits: CanaryConfig, old: Revision) -> None:
    assert compared(Revision(traffic=100), old, limits).refused == ""


def test_a_revision_that_is_as_bad_is_accepted(limits: CanaryConfig) -> None:
    both = {"errors": 0.05, "seconds": 0.15, "unknown": 0.4}
    assert compared(Revision(traffic=100, **both), Revision(traffic=900, **both), limits).refused == ""


def test_a_difference_of_a_few_milliseconds_is_noise(limits: CanaryConfig) -> None:
    new, old = Revision(seconds=0.04, traffic=100), Revision(seconds=0.005, traffic=900)
    assert compared(new, old, limits).refused == ""


def test_failures_that_the_service_does_not_see(limits: CanaryConfig) -> None:
    """Cloud Run answers itself if the container crashed."""
    assert "of its responses are server errors" in compared(Revision(status=503), Revision(), limits).refused


def test_metrics_that_cannot_be_read(limits: CanaryConfig) -> None:
    assert (
        "Cannot read https://candidate---gtsrb/metrics: "
        in compared(Revision(readable=False), Revision(), limits).refused
    )


def test_the_token_is_sent(limits: CanaryConfig) -> None:
    headers = {"Authorization": "Bearer token"}
    assert compared(Revision(traffic=200), Revision(traffic=200), limits, headers).refused == ""


class TestMeter:
    def test_an_instance_that_started_later_counts_from_zero(self) -> None:
        meter = Meter(START)
        first, second = Revision(), Revision(born=START + 60)
        meter.read(first.metrics())
        second.requests = 1010
        meter.read(second.metrics())
        assert meter.total("requests") == 1010

    def test_an_older_instance_that_is_seen_later_does_not(self) -> None:
        meter = Meter(START)
        meter.read(Revision().metrics())
        other = Revision(born=600.0)
        meter.read(other.metrics())
        other.requests += 7
        meter.read(other.metrics())
        assert meter.total("requests") == 7

    def test_no_requests(self) -> None:
        meter = Meter(START)
        meter.read(Revision().metrics())
        meter.read(Revision().metrics())
        assert (meter.error_share, meter.unknown_share) == (0, 0)
        assert math.isnan(meter.slowest)
