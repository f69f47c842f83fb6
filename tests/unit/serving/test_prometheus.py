"""Metrics of the loaded model."""

from types import SimpleNamespace
from typing import cast

import pytest

from src.mlops.inference.classifier import Classifier
from src.mlops.serving.prometheus import show_model
from tests.helpers.service import sample


@pytest.mark.parametrize(
    ("created", "seconds"),
    [
        ("2026-11-30T00:00:00+00:00", 1795996800),
        ("2026-11-30T01:00:00+01:00", 1795996800),
        ("2026-11-30", 1795996800),  # UTC
        ("0001-01-01", 0),
        ("yesterday", 0),
        ("", 0),
        (None, 0),
        (["2026-11-30"], 0),
    ],
)
def test_the_time_of_the_training(created: object, seconds: float) -> None:
    info = SimpleNamespace(provenance={"created": created}, classes=[])
    show_model(cast(Classifier, SimpleNamespace(version="tested", info=info)), None)
    assert sample("mlops_model_created_seconds") == seconds
