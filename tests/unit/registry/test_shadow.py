"""What the gate says about the answers of a candidate as a shadow of the service."""

from dataclasses import replace
from pathlib import Path

import pytest

from src.mlops.config import GateConfig
from src.mlops.errors import StorageError
from src.mlops.inference.classifier import Classifier
from src.mlops.registry.shadow import shadow_checks
from tests.helpers.recording import record_lines, store_segment, store_shadowed
from tests.helpers.tiny import quick_config


@pytest.fixture
def candidate(exported: Path) -> Classifier:
    return Classifier.load(exported)


@pytest.fixture
def limits(tmp_path: Path) -> GateConfig:
    return quick_config([f"gate.shadow_log={tmp_path / 'log'}", "gate.shadow_images=20"]).gate


def test_by_default_nothing_is_checked(candidate: Classifier) -> None:
    assert shadow_checks(quick_config([]).gate, candidate) == []


def test_enough_images(candidate: Classifier, limits: GateConfig) -> None:
    store_shadowed(str(limits.shadow_log), candidate.version, 20, differing=5)
    images, unknown = shadow_checks(limits, candidate)
    assert (images.passed, images.found) == (True, "20, 25.0% with another class than the model in service")
    assert (unknown.passed, unknown.found) == (True, "+0.0%: 0.0%, the model in service 0.0%")


def test_too_few_images(candidate: Classifier, limits: GateConfig) -> None:
    url = str(limits.shadow_log)
    store_shadowed(url, candidate.version, 19)
    store_shadowed(url, "0123456789ab", 30)  # another candidate
    store_segment(url, "0", record_lines("a", "b"))  # without a shadow
    images, _ = shadow_checks(limits, candidate)
    assert (images.passed, images.found.split(",")[0], images.limit) == (False, "19", ">= 20")


@pytest.mark.parametrize("exists", [False, True])
def test_an_empty_log(candidate: Classifier, limits: GateConfig, tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "log").mkdir()
    [images] = shadow_checks(limits, candidate)
    assert (images.passed, images.found) == (False, f"0 in {limits.shadow_log}")


def test_too_many_unknown_images(candidate: Classifier, limits: GateConfig) -> None:
    store_shadowed(str(limits.shadow_log), candidate.version, 50, unknown=2)
    _, unknown = shadow_checks(limits, candidate)
    assert (unknown.passed, unknown.found) == (False, "+4.0%: 4.0%, the model in service 0.0%")


@pytest.mark.parametrize("created", ["2026-01-01", "0001-01-01", "yesterday", None])
def test_a_candidate_of_unknown_age(candidate: Classifier, limits: GateConfig, created: str | None) -> None:
    store_shadowed(str(limits.shadow_log), candidate.version, 20)
    candidate.info = replace(candidate.info, provenance={**candidate.info.provenance, "created": created})
    assert all(check.passed for check in shadow_checks(limits, candidate))


def test_a_log_that_cannot_be_read(candidate: Classifier, limits: GateConfig) -> None:
    with pytest.raises(StorageError, match="s3://"):
        shadow_checks(limits.model_copy(update={"shadow_log": "s3://bucket"}), candidate)
