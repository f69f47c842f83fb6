"""Tests the results of benchmarks and the tables that they generate."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import accuracy, environment, figures, tables
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


def test_a_missing_teacher_is_an_error_before_the_first_training(tmp_path: Path) -> None:
    result = CliRunner().invoke(accuracy.app, ["default", f"training.teachers=['{tmp_path}/teacher.pth']"])
    assert isinstance(result.exception, ConfigError)
    assert f"default-42 learns from {tmp_path}/teacher.pth, which does not exist" in str(result.exception)


def test_an_unknown_configuration_is_an_error() -> None:
    result = CliRunner().invoke(accuracy.app, ["missing"])
    assert isinstance(result.exception, ConfigError)
    assert "'missing'" in str(result.exception)


CONFIG: dict[str, Any] = {
    "seed": 1,
    "model": {"width": 24},
    "training": {"epochs": 18, "batch_size": None, "resume": False, "optimizer": {"lr": 0.004}, "drawn": None},
    "calibration": {"coverage": 0.999},
    "data": {"image_size": 48, "raw_dir": "here"},
    "device": "auto",
}


@pytest.mark.parametrize(
    ("section", "stored", "changed"),
    [
        ("training", {"batch_size": 64, "resume": True}, []),
        ("training", {"epochs": 20, "optimizer": {"lr": 0.002}}, ["training.epochs", "training.optimizer.lr"]),
        ("training", {"optimizer": {"lr": 0.004, "betas": [0.9, 0.99]}}, ["training.optimizer.betas"]),
        ("training", {"drawn": {"seed": 1}}, ["training.drawn"]),
        ("data", {"raw_dir": "there", "image_size": 40}, ["data.image_size"]),
    ],
)
def test_settings_that_train_another_model(section: str, stored: dict[str, object], changed: list[str]) -> None:
    earlier = CONFIG | {section: CONFIG[section] | stored, "device": "cpu"}
    assert list(accuracy.changed_settings(CONFIG, earlier, CONFIG)) == changed


def test_settings_that_an_earlier_version_lacks() -> None:
    earlier = CONFIG | {"training": {"epochs": 18, "optimizer": {"lr": 0.004}}}
    assert not list(accuracy.changed_settings(CONFIG, earlier, CONFIG))
    wanted = CONFIG | {"training": CONFIG["training"] | {"mixup": 0.2}}
    defaults = CONFIG | {"training": CONFIG["training"] | {"mixup": 0.0}}
    assert list(accuracy.changed_settings(wanted, earlier, defaults)) == ["training.mixup"]


def test_the_median_time_does_not_count_the_first_calls() -> None:
    pauses = iter([0.01] * 20 + [0] * 200)
    assert 0 < accuracy.median_milliseconds(lambda: time.sleep(next(pauses))) < 5
    assert next(pauses, None) is None


def test_the_interval_of_wilson() -> None:
    assert figures.wilson(0, 100) == "96.30 to 100.00"
    assert figures.wilson(25, 12_630) == "99.71 to 99.87"
    trials = [{"test_wrong": str(wrong), "test_images": "12630"} for wrong in (20, 25, 30)]
    assert figures.interval(trials) == figures.wilson(25, 12_630)


def test_the_table_of_accuracies(results: Path) -> None:
    row = {
        "overrides": "", "image_size": 48, "parameters": 299_107, "mmac": 25.0, "seconds_per_epoch": "",
        "test_accuracy": 0.99, "test_wrong": 63, "test_images": 6315, "val_accuracy": 0.98,
        "test_calibration_error": 0.003,
    }  # fmt: skip
    tiny = {**row, "overrides": "experiment=tiny", "seconds_per_epoch": 9.5, "ms_per_image_onnx": 0.25}
    rows = [{**row, "seed": 1}, {**tiny, "seed": 1}, {**tiny, "seed": 2, "ms_per_image_onnx": 0.125}]
    environment.write_results("accuracy", [{"ms_per_image_onnx": "", **row} for row in rows], ("overrides", "seed"))
    shown = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables.TABLES["accuracy"]().splitlines()[2:7]]
    assert [cells[:6] for cells in shown] == [
        ["default", "48", "299,107", "25.0", "–", "–"],  # an earlier version did not measure them
        ["`experiment=tiny`", "48", "299,107", "25.0", "9.5", "0.125"],
        ["MicronNet (Wong et al. 2018), published", "–", "0.51 M", "10", "–", "–"],
        ["spatial transformers (Arcos-García et al. 2018), published", "–", "14 M", "–", "–", "–"],
        [
            "real and synthetic images (Lopes da Silva and Ramires Fernandes 2022), published", "–", "2.7 M",
            *["–"] * 3,
        ],
    ]  # fmt: skip
    assert shown[4][6:] == ["99.80", "99.71 to 99.87", "about 25 of 12,630", "–", "–"]


def test_no_accuracies(results: Path) -> None:
    assert tables.TABLES["accuracy"]() == "*Not measured yet.*\n"
