"""Batch prediction: every kind of input and output, unreadable pictures, and runs that were broken off."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import fsspec
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from src.mlops import ROOT
from src.mlops.errors import DataError
from src.mlops.inference import Classifier
from src.mlops.pictures import find_images
from src.mlops.predict import main, predict, predict_to
from src.mlops.rows import SCHEMA, Row, local_rows
from tests.conftest import picture

COUNT = 150  # several batches


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signs")
    (folder / "deep").mkdir()
    for number in range(COUNT):
        picture(number % 5, number).save(folder / "deep" / f"{number:03d}.png")
    (folder / "bad.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not looked at")
    return folder


@pytest.fixture
def classifier(exported: Path) -> Classifier:
    return Classifier.load(exported)


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        return pd.read_csv(path)
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_json(path, lines=True)


def test_unusable_pictures_become_rows(folder: Path, classifier: Classifier) -> None:
    bad, *good = predict([str(folder)], classifier)
    assert "found something else" in bad["error"]
    assert bad["predicted_class"] is None
    assert len(good) == COUNT
    assert all(row["error"] is None and row["predicted_class"] in range(43) for row in good)
    expected = classifier.classify([Path(good[7]["path"])])[0]
    assert (good[7]["predicted_class"], good[7]["prediction_set"]) == (
        expected.predicted_class,
        expected.prediction_set,
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_every_format_says_the_same(folder: Path, classifier: Classifier, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / "new" / f"out.{suffix}"
    assert predict_to(out, [str(folder)], classifier) == (COUNT + 1, 1)
    table = read(out)
    assert list(table.columns) == SCHEMA.names
    expected = list(predict([str(folder)], classifier))
    assert list(table["path"]) == [row["path"] for row in expected]
    assert table["predicted_class"].dropna().astype(int).tolist() == [
        row["predicted_class"] for row in expected if row["error"] is None
    ]
    assert {path.name for path in out.parent.iterdir()} == {out.name, f"{out.name}.partial.lock"}


def test_inputs_of_every_kind(folder: Path) -> None:
    one = folder / "deep" / "000.png"
    assert list(find_images([str(one)])) == [str(one)]
    assert len(list(find_images([f"{folder}/deep/00*.png"]))) == 10
    assert len(list(find_images([f"{folder}/**/*.png"]))) == COUNT
    memory = fsspec.filesystem("memory")
    for name in ("b.png", "a.png", "x.txt"):
        memory.pipe(f"/bucket/{name}", one.read_bytes())
    assert list(find_images(["memory://bucket"])) == ["memory:///bucket/a.png", "memory:///bucket/b.png"]
    assert list(find_images(["memory://bucket/b*.png"])) == ["memory:///bucket/b.png"]


def test_pictures_in_a_bucket(folder: Path, classifier: Classifier) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/signs/a.png", (folder / "deep" / "000.png").read_bytes())
    memory.pipe("/signs/b.png", b"")
    good, bad = predict(["memory://signs"], classifier)
    assert good["error"] is None
    assert "empty file" in bad["error"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["no/such/file.png"], "expected a file, a folder, a glob or a URL, found nothing at"),
        (["memory://no-such-bucket"], "memory://no-such-bucket"),
        (["nosuch://bucket/x"], "expected to read nosuch://bucket/x, found: ValueError"),
        ([], "expected pictures in the inputs, found none"),
    ],
)
def test_inputs_that_are_not_there(classifier: Classifier, tmp_path: Path, inputs: list[str], message: str) -> None:
    out = tmp_path / "out.csv"
    out.write_text("former")
    with pytest.raises(DataError, match=message):
        predict_to(out, inputs, classifier)
    assert out.read_text() == "former"
    assert list(tmp_path.iterdir()) == [out]


class BrokenError(Exception):
    pass


def breaking(classifier: Classifier, after: int):  # type: ignore[no-untyped-def]
    def rows(paths: Iterable[str]) -> Iterator[Row]:
        yield from islice(local_rows(classifier)(paths), after)
        raise BrokenError

    return rows


@pytest.mark.parametrize("after", [0, 1, 70, COUNT + 1])
def test_a_broken_off_run_goes_on(folder: Path, classifier: Classifier, tmp_path: Path, after: int) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(BrokenError):
        predict_to(out, [str(folder)], classifier, breaking(classifier, after))
    assert not out.exists()
    asked: list[str] = []

    def watched(paths: Iterable[str]) -> Iterator[Row]:
        for row in local_rows(classifier)(paths):
            asked.append(row["path"])
            yield row

    assert predict_to(out, [str(folder)], classifier, watched) == (COUNT + 1, 1)
    assert len(asked) == COUNT + 1 - after
    assert read(out)["path"].tolist() == list(find_images([str(folder)]))


def test_a_line_that_was_cut_off_is_done_again(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(BrokenError):
        predict_to(out, [str(folder)], classifier, breaking(classifier, 50))
    journal = tmp_path / "out.jsonl.partial" / "rows.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert predict_to(out, [str(folder)], classifier) == (COUNT + 1, 1)
    assert len(read(out)) == COUNT + 1


def test_unfinished_work_of_others_is_not_touched(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(BrokenError):
        predict_to(out, [str(folder)], classifier, breaking(classifier, 50))
    journal = tmp_path / "out.jsonl.partial" / "rows.jsonl"
    before = journal.read_bytes()
    with pytest.raises(DataError, match="found that of other inputs or another model"):
        predict_to(out, [str(folder / "deep")], classifier)
    assert journal.read_bytes() == before


def test_two_runs_do_not_write_one_file(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    def second(paths: Iterable[str]) -> Iterator[Row]:
        with pytest.raises(DataError, match="another run that writes it"):
            predict_to(out, [str(folder)], classifier)
        yield from local_rows(classifier)(paths)

    assert predict_to(out, [str(folder)], classifier, second) == (COUNT + 1, 1)


def test_killed_run_goes_on(folder: Path, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    command = [sys.executable, "-m", "src.mlops.predict", str(folder), "--model", str(exported), "--out", str(out)]
    journal = tmp_path / "out.parquet.partial" / "rows.jsonl"
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (journal.exists() and journal.stat().st_size):
            pass
        process.kill()
    killed_halfway = process.returncode != 0
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not killed_halfway or "going on after" in result.stderr
    assert len(read(out)) == COUNT + 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    own = tmp_path / "signs"
    own.mkdir()
    shutil.copy(folder / "deep/000.png", os.fsdecode(os.fsencode(own) + b"/Stra\xdfe.png"))
    assert predict_to(tmp_path / "out.jsonl", [str(own)], classifier) == (1, 0)
    assert read(tmp_path / "out.jsonl")["path"][0].endswith(r"Stra\xdfe.png")


def test_a_recursive_glob_names_each_picture_once(folder: Path) -> None:
    found = list(find_images([f"{folder}/**"]))
    assert len(found) == len(set(found))
    assert f"{folder}/deep/000.png" in found


def test_damaged_journal_is_done_again(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(BrokenError):
        predict_to(out, [str(folder)], classifier, breaking(classifier, 50))
    journal = tmp_path / "out.jsonl.partial" / "rows.jsonl"
    journal.write_bytes(journal.read_bytes()[:500] + b"\0" * 30 + b"\n")
    assert predict_to(out, [str(folder)], classifier) == (COUNT + 1, 1)
    assert len(read(out)) == COUNT + 1


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_output_that_cannot_be_written(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="expected to write"):
        predict_to(tmp_path / "out.csv", [str(folder)], classifier)


def test_output_below_a_file(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="expected to write"):
        predict_to(tmp_path / "file" / "out.csv", [str(folder)], classifier)


class TestCommandLine:
    def run(self, *words: str):  # type: ignore[no-untyped-def]
        app = typer.Typer()
        app.command()(main)
        return CliRunner().invoke(app, list(words))

    def test_writes_a_file(self, folder: Path, exported: Path, tmp_path: Path) -> None:
        out = tmp_path / "out.jsonl"
        result = self.run(str(folder), "--out", str(out), "--model", str(exported))
        assert result.exit_code == 0
        assert len([json.loads(line) for line in out.read_text().splitlines()]) == COUNT + 1

    def test_shows_a_table(self, folder: Path, exported: Path) -> None:
        result = self.run(str(folder / "deep" / "000.png"), str(folder / "bad.jpg"), "--model", str(exported))
        assert result.exit_code == 0
        assert "something else" in result.stdout

    def test_other_suffix(self, folder: Path, exported: Path) -> None:
        result = self.run(str(folder), "--out", "x.xlsx", "--model", str(exported))
        assert result.exit_code == 1
        assert "expected a file to write that ends in .parquet, .csv, .jsonl" in result.output

    def test_nothing_usable(self, folder: Path, exported: Path) -> None:
        result = self.run(str(folder / "bad.jpg"), "--model", str(exported))
        assert result.exit_code == 1
        assert "expected usable pictures, found none among 1" in result.output


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the group ray is not installed: uv sync --group ray"
)
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_gives_the_same_rows(folder: Path, exported: Path, classifier: Classifier) -> None:
    from src.mlops.rows import ray_rows

    assert list(predict([str(folder)], classifier, ray_rows(exported, 2))) == list(predict([str(folder)], classifier))
