"""Tests the results of benchmarks and the tables that they generate."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import accuracy, environment, tables
from src.mlops.errors import ConfigError


@pytest.mark.parametrize("document", tables.DOCUMENTS, ids=lambda path: path.name)
def test_the_tables_in_the_documentation_match_the_results(document: Path) -> None:
    text = document.read_text()
    assert tables.render(text) == text, "run: uv run python -m benchmarks.tables"


def test_results_contain_their_environment() -> None:
    for path in environment.RESULTS.glob("*.csv"):
        for row in environment.read_results(path.stem):
            assert all(row[column] for column in ("date", "cpu", "cores", "threads", "python", "torch")), path


def test_a_new_row_replaces_the_old_row_with_the_same_key(results: Path) -> None:
    for seed, value in ((1, "a"), (2, "b"), (1, "c")):
        environment.write_results("some", [{"seed": seed, "value": value}], ("seed",))
    assert [(row["seed"], row["value"]) for row in environment.read_results("some")] == [("2", "b"), ("1", "c")]
    assert {path.name for path in results.iterdir()} == {"some.csv", ".some.lock"}


def test_processes_that_write_to_the_same_file_keep_the_rows_of_each_other(results: Path) -> None:
    def write(trial: int) -> None:
        for seed in range(5):
            environment.write_results("some", [{"trial": trial, "seed": seed}], ("trial", "seed"))

    with ThreadPoolExecutor(4) as pool:  # a lock of a file also holds between threads, if each has its own
        list(pool.map(write, range(4)))
    rows = [(row["trial"], row["seed"]) for row in environment.read_results("some")]
    assert sorted(rows) == sorted((str(trial), str(seed)) for trial in range(4) for seed in range(5))


def test_an_unknown_configuration_is_an_error() -> None:
    result = CliRunner().invoke(accuracy.app, ["missing"])
    assert isinstance(result.exception, ConfigError)
    assert "'missing'" in str(result.exception)
