"""The benchmarks run, and the documents state what they measured."""

from pathlib import Path

import pytest

from benchmarks import accuracy, environment, loader, tables, time_to_accuracy
from tests.conftest import tiny_overrides


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(environment, "RESULTS", folder)
    return folder


@pytest.fixture
def overrides(tmp_path: Path, raw_dir: Path) -> list[str]:
    own = ("run_dir", "ckpt_path", "data.processed_dir", "evaluation", "model")
    return [one for one in tiny_overrides(tmp_path, raw_dir) if not one.startswith(own)]


@pytest.mark.parametrize("document", tables.DOCUMENTS, ids=lambda path: path.name)
def test_tables_of_the_documents_are_those_of_the_results(document: Path) -> None:
    text = document.read_text()
    assert tables.render(text) == text, "run: uv run python -m benchmarks.tables"


def test_results_say_where_they_come_from() -> None:
    for path in environment.RESULTS.glob("*.csv"):
        for row in environment.read_results(path.stem):
            assert all(row[column] for column in ("date", "cpu", "cores", "threads", "python", "torch")), path


def test_a_new_row_replaces_the_old_one_of_its_key(results: Path) -> None:
    for seed, value in ((1, "a"), (2, "b"), (1, "c")):
        environment.write_results("some", [{"seed": seed, "value": value}], ("seed",))
    assert [(row["seed"], row["value"]) for row in environment.read_results("some")] == [("2", "b"), ("1", "c")]
    assert [path.name for path in results.iterdir()] == ["some.csv"]


def test_loader(results: Path, overrides: list[str], tmp_path: Path) -> None:
    loader.main(["--repeat", "2", *overrides, f"data.processed_dir={tmp_path / 'processed'}"])
    rows = {row["loader"]: row for row in environment.read_results("loader")}
    assert rows.keys() == {
        "packed", "packed, trained on", "pillow", "pillow, 2 workers", "packed, one epoch",
    }  # fmt: skip
    assert all(float(row["images_per_second"]) > 0 for row in rows.values())
    assert rows["packed, one epoch"]["images"] == "128"
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "processed", "results"}


def test_accuracy(results: Path, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "in_new_process", lambda work, *arguments: work(*arguments))  # else KEPT is the real
    monkeypatch.setattr(accuracy, "KEPT", tmp_path / "kept")
    overrides = [*overrides, f"data.processed_dir={tmp_path / 'processed'}"]
    accuracy.main(["default", "--seeds", "3", *overrides])
    (row,) = environment.read_results("accuracy")
    assert (row["configuration"], row["seed"], row["test_images"], row["epochs"]) == ("default", "3", "12", "2")
    assert 0 <= float(row["test_accuracy"]) <= 1
    assert float(row["mmac"]) > 1
    assert (tmp_path / "kept/default-3/best_model.pth").is_file()


@pytest.mark.slow
def test_time_to_accuracy(results: Path, overrides: list[str]) -> None:
    time_to_accuracy.main(["--trials", "1", "--baseline-epochs", "1", *overrides])
    rows = {row["recipe"]: row for row in environment.read_results("time_to_accuracy")}
    assert rows.keys() == {"default", "default, bf16", "baseline"}
    assert all(float(row["seconds_per_epoch"]) > 0 for row in rows.values())
