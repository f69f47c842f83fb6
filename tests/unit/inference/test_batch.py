"""Batch prediction: all kinds of input and output, unreadable images, and interrupted runs."""

import os
import re
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import fsspec
import pytest

from src.mlops.errors import DataError, UnsupportedImageError
from src.mlops.inference.batch import predict, predict_to
from src.mlops.inference.classifier import Classifier
from src.mlops.inference.engines import SCHEMA, Row, local_rows
from src.mlops.inference.inputs import find_images
from tests.helpers.images import make_image, write_signs
from tests.helpers.tables import read_rows

COUNT = 150  # several batches


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_signs(tmp_path_factory.mktemp("signs"), COUNT)


@pytest.fixture
def classifier(exported: Path) -> Classifier:
    return Classifier.load(exported)


def test_unusable_images_become_rows(folder: Path, classifier: Classifier) -> None:
    bad, *good = predict([str(folder)], classifier)
    with pytest.raises(UnsupportedImageError) as error:
        classifier.classify([folder / "bad.jpg"])
    assert bad["error"] == str(error.value)
    assert bad["predicted_class"] is None
    assert len(good) == COUNT
    assert all(row["error"] is None and row["predicted_class"] in range(43) for row in good)
    expected = classifier.classify([Path(good[7]["path"])])[0]
    assert (good[7]["predicted_class"], good[7]["prediction_set"]) == (
        expected.predicted_class,
        expected.prediction_set,
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_every_format_has_the_same_rows(folder: Path, classifier: Classifier, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / "new" / f"out.{suffix}"
    assert predict_to(out, [str(folder)], classifier) == (COUNT + 1, 1)
    table = read_rows(out)
    assert list(table.columns) == SCHEMA.names
    expected = list(predict([str(folder)], classifier))
    assert list(table["path"]) == [row["path"] for row in expected]
    assert table["predicted_class"].dropna().astype(int).tolist() == [
        row["predicted_class"] for row in expected if row["error"] is None
    ]
    assert {path.name for path in out.parent.iterdir()} == {out.name, f"{out.name}.partial.lock"}


def test_finds_images_in_every_kind_of_input(folder: Path) -> None:
    one = folder / "deep" / "000.png"
    assert list(find_images([str(one)])) == [str(one)]
    assert len(list(find_images([f"{folder}/deep/00*.png"]))) == 10
    assert len(list(find_images([f"{folder}/**/*.png"]))) == COUNT
    memory = fsspec.filesystem("memory")
    for name in ("b.png", "a.png", "x.txt"):
        memory.pipe(f"/bucket/{name}", one.read_bytes())
    assert list(find_images(["memory://bucket"])) == ["memory:///bucket/a.png", "memory:///bucket/b.png"]
    assert list(find_images(["memory://bucket/b*.png"])) == ["memory:///bucket/b.png"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", ["a.png", "notes.txt", "one/b.png", "one/deep/c.png", "two[1]/d.png"]),
        ("one", ["one/b.png", "one/deep/c.png"]),
        ("o*", ["one/b.png", "one/deep/c.png"]),
        ("*/deep", ["one/deep/c.png"]),
        ("**", ["a.png", "one/b.png", "one/deep/c.png", "two[1]/d.png"]),
        ("**/*", ["a.png", "one/b.png", "one/deep/c.png", "two[1]/d.png"]),
        ("*.png", ["a.png"]),
        ("two[1]", ["two[1]/d.png"]),
    ],
)
def test_patterns_find_the_same_images_in_a_folder_and_in_a_bucket(
    tmp_path: Path, pattern: str, found: list[str]
) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a.png", "notes.txt", "one/b.png", "one/deep/c.png", "one/deep/x.txt", "two[1]/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        memory.pipe(f"/patterns/{name}", b"")
    assert [path.removeprefix(f"{tmp_path}/") for path in find_images([f"{tmp_path}/{pattern}"])] == found
    remote = find_images([f"memory://patterns/{pattern}"])
    assert [path.removeprefix("memory:///patterns/") for path in remote] == found


def test_images_in_a_bucket(folder: Path, classifier: Classifier) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/signs/a.png", (folder / "deep" / "000.png").read_bytes())
    memory.pipe("/signs/b.png", b"")
    good, bad = predict(["memory://signs"], classifier)
    assert good["error"] is None
    assert "0 bytes" in bad["error"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["no/such/file.png"], r"no/such/file\.png"),
        (["memory://no-such-bucket"], "memory://no-such-bucket"),
        (["nosuch://bucket/x"], "nosuch://bucket/x: ValueError"),
        ([], "No images"),
    ],
)
def test_missing_inputs(classifier: Classifier, tmp_path: Path, inputs: list[str], message: str) -> None:
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
def test_an_interrupted_run_is_resumed(folder: Path, classifier: Classifier, tmp_path: Path, after: int) -> None:
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
    assert read_rows(out)["path"].tolist() == list(find_images([str(folder)]))


def test_an_incomplete_row_is_computed_again(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(BrokenError):
        predict_to(out, [str(folder)], classifier, breaking(classifier, 50))
    journal = tmp_path / "out.jsonl.partial" / "rows.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert predict_to(out, [str(folder)], classifier) == (COUNT + 1, 1)
    assert len(read_rows(out)) == COUNT + 1


def test_the_journal_of_another_run_is_not_changed(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(BrokenError):
        predict_to(out, [str(folder)], classifier, breaking(classifier, 50))
    journal = tmp_path / "out.jsonl.partial" / "rows.jsonl"
    before = journal.read_bytes()
    with pytest.raises(DataError, match=rf"{re.escape(str(journal.parent))}.*--out"):
        predict_to(out, [str(folder / "deep")], classifier)
    assert journal.read_bytes() == before


def test_two_runs_cannot_write_the_same_file(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    def second(paths: Iterable[str]) -> Iterator[Row]:
        with pytest.raises(DataError, match="another run"):
            predict_to(out, [str(folder)], classifier)
        yield from local_rows(classifier)(paths)

    assert predict_to(out, [str(folder)], classifier, second) == (COUNT + 1, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows such names")
def test_names_that_are_not_utf8(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    own = tmp_path / "signs"
    own.mkdir()
    shutil.copy(folder / "deep/000.png", os.fsdecode(os.fsencode(own) + b"/Stra\xdfe.png"))
    assert predict_to(tmp_path / "out.jsonl", [str(own)], classifier) == (1, 0)
    assert read_rows(tmp_path / "out.jsonl")["path"][0].endswith(r"Stra\xdfe.png")


def test_a_recursive_glob_finds_each_image_once(folder: Path) -> None:
    found = list(find_images([f"{folder}/**"]))
    assert len(found) == len(set(found))
    assert f"{folder}/deep/000.png" in found


def test_corrupted_rows_are_computed_again(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(BrokenError):
        predict_to(out, [str(folder)], classifier, breaking(classifier, 50))
    journal = tmp_path / "out.jsonl.partial" / "rows.jsonl"
    journal.write_bytes(journal.read_bytes()[:500] + b"\0" * 30 + b"\n")
    assert predict_to(out, [str(folder)], classifier) == (COUNT + 1, 1)
    assert len(read_rows(out)) == COUNT + 1


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root can write to any folder")
def test_output_that_cannot_be_written(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match=r"out\.csv.*Permission denied"):
        predict_to(tmp_path / "out.csv", [str(folder)], classifier)


def test_output_below_a_file(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "file" / "out.csv"))):
        predict_to(tmp_path / "file" / "out.csv", [str(folder)], classifier)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
class TestSpecialFiles:
    @pytest.fixture
    def mixed(self, tmp_path: Path) -> Path:
        folder = tmp_path / "images"
        folder.mkdir()
        make_image(0).save(folder / "a.png")
        (folder / "linked.png").symlink_to(folder / "a.png")
        (folder / "missing.png").symlink_to(folder / "nowhere.png")
        os.mkfifo(folder / "pipe.png")
        (folder / "deep").mkdir()
        (folder / "deep" / "device.png").symlink_to("/dev/zero")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "socket.png"))
        return folder

    @pytest.mark.parametrize("pattern", ["{}", "{}/*", "{}/**", "file://{}", "file://{}/*.png"])
    def test_are_ignored_with_one_warning(
        self, mixed: Path, classifier: Classifier, caplog: pytest.LogCaptureFixture, pattern: str, tmp_path: Path
    ) -> None:
        out = tmp_path / "out.jsonl"
        done, failed = predict_to(out, [pattern.format(mixed)], classifier)
        assert (done, failed) == (3, 1)
        [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert re.search(
            r"Ignored [23] named pipes, sockets or devices .*, for example .*(pipe|device|socket)\.png", warning
        )

    def test_named_directly_is_an_error(self, mixed: Path) -> None:
        for name in ("pipe.png", "socket.png", "deep/device.png"):
            with pytest.raises(DataError, match=f"{name} is a named pipe, a socket or a device"):
                list(find_images([str(mixed / name)]))
