"""The benchmark of the accuracy of labelled traffic."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import environment, labelled_accuracy
from benchmarks.labelled_accuracy import KINDS, Traffic


def test_expected_accuracy() -> None:
    assert Traffic("", 0.5, 9, 2, 1.0, 1, 1).accuracy == pytest.approx((0.9 + 0.5) / 2)


def test_both_intervals_are_compared_for_each_number_of_labels(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = tuple(kind._replace(signs=200 // kind.frames, uncertain=0.3) for kind in KINDS[1::2])
    monkeypatch.setattr(labelled_accuracy, "KINDS", kinds)
    monkeypatch.setattr(labelled_accuracy, "COUNTS", (20, 40))
    outcome = CliRunner().invoke(labelled_accuracy.app, ["--trials", "3"])
    assert outcome.exit_code == 0, outcome.output
    rows = environment.read_results("labelled_accuracy")
    assert [(row["traffic"], row["labels"]) for row in rows] == [
        (kind.name, count) for kind in kinds for count in ("20", "40")
    ]
    for row in rows:
        assert float(row["naive_estimate"]) < float(row["weighted_estimate"])  # uncertain images are over-represented
        assert 0 < float(row["naive_width"]) < float(row["weighted_width"]) < 1
        assert row["trials"] == "3"


def test_too_few_images(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled_accuracy, "KINDS", (KINDS[0]._replace(signs=30),))
    outcome = CliRunner().invoke(labelled_accuracy.app, ["--trials", "1"])
    assert "too few images" in str(outcome.exception)
