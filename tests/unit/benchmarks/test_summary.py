"""Tests the table of results in README."""

import re
from pathlib import Path

from benchmarks.environment import RESULTS
from benchmarks.summary import summary


def test_ten_lines_with_the_files_that_they_come_from() -> None:
    lines = summary().splitlines()[2:12]
    assert len(lines) == 10
    for line in lines:
        (file,) = re.findall(r"\]\(benchmarks/results/(\w+\.csv)\)", line)
        assert (RESULTS / file).is_file()


def test_accuracies_have_a_range_over_at_least_three_seeds() -> None:
    accuracies = [line for line in summary().splitlines() if line.startswith("| test accuracy")]
    assert accuracies
    for line in accuracies:
        assert re.search(r"seeds \d+, \d+, \d+", line)
        assert re.search(r"\d+\.\d\d % \(\d+\.\d\d to \d+\.\d\d\)", line)


def test_nothing_measured(results: Path) -> None:
    assert summary() == "*Not measured yet.*\n"
