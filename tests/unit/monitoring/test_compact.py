"""Compaction neither loses nor duplicates records, whatever happens in between, and nothing erased comes back."""

import gzip
import json
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pandas.testing import assert_frame_equal
from pyarrow import parquet
from typer.testing import CliRunner

from src.mlops.errors import DataError, StorageError
from src.mlops.io.storage import Folder
from src.mlops.monitoring.compact import app, compact
from src.mlops.monitoring.erase import erase
from src.mlops.monitoring.frame import read_frame
from src.mlops.monitoring.read import read_records
from src.mlops.monitoring.schema import FIELDS
from tests.helpers.recording import record_lines, store_segment

IDS = ["a", "b", "c", "d", "e", "f"]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Returns a log with three segments of one day."""
    for number in range(3):
        store_segment(str(tmp_path), f"{number}", record_lines(*IDS[2 * number : 2 * number + 2]))
    return str(tmp_path)


def files(url: str) -> list[str]:
    return [path.relative_to(url).as_posix() for path in sorted(Path(url, "records").glob("*/*"))]


def parquet_files(url: str) -> list[Path]:
    return sorted(Path(url, "records").glob("*/*.parquet"))


def ids_in(url: str) -> list[str]:
    return sorted(record["request_id"] for record in read_records(url))


def everything_in(url: str) -> list[str]:
    """Returns the IDs in all files, with those that readers would drop because they occur twice."""
    lines = [line for path in Path(url).glob("records/*/*.gz") for line in gzip.decompress(path.read_bytes()).split()]
    found = [part for line in lines for part in line.split(b'"') if part.startswith(b"record-")]
    tables = [parquet.read_table(path).column("record_id").to_pylist() for path in parquet_files(url)]
    return sorted([*(value.decode() for value in found), *(value for table in tables for value in table)])


def on_call(
    monkeypatch: pytest.MonkeyPatch, method: str, action: Callable[[], object], number: int = 0, *, after: bool = False
) -> None:
    """Does something before or after one call of a method of the storage."""
    original, left = getattr(Folder, method), [number]

    def replaced(self: Folder, *arguments: object) -> object:
        left[0] -= 1
        mine = left[0] == -1
        if mine and not after:
            action()
        result = original(self, *arguments)
        if mine and after:
            action()
        return result

    monkeypatch.setattr(Folder, method, replaced)


def fail() -> None:
    raise StorageError("killed")


class TestCompact:
    def test_one_file_per_past_day(self, url: str) -> None:
        today = datetime.now(UTC).date()
        store_segment(url, "2026-11-27/x", record_lines("before"))
        store_segment(url, f"{today}/x", record_lines("today"))
        records, frame = list(read_records(url)), read_frame(url)
        assert compact(url) == (2, 4, 7)
        days = [name.split("/")[1] for name in files(url)]
        assert days == ["date=2026-11-27", "date=2026-11-28", f"date={today}"]
        assert len(parquet_files(url)) == 2
        key = "record_id"
        assert sorted(read_records(url), key=lambda record: record[key]) == sorted(records, key=lambda r: r[key])
        assert_frame_equal(
            read_frame(url).sort_values(key, ignore_index=True), frame.sort_values(key, ignore_index=True)
        )
        assert compact(url) == (0, 0, 0)

    def test_only_days_before(self, url: str) -> None:
        store_segment(url, "2026-11-27/x", record_lines("before"))
        assert compact(url, date(2026, 11, 28)) == (1, 1, 1)
        assert [name.endswith(".parquet") for name in files(url)] == [True, False, False, False]

    def test_segments_that_arrive_later_are_added(self, url: str) -> None:
        compact(url)
        store_segment(url, "late", record_lines("late"))
        assert compact(url) == (1, 2, 7)
        assert len(files(url)) == 1
        assert ids_in(url) == [*IDS, "late"]

    def test_other_programs_read_the_columns(self, url: str) -> None:
        compact(url)
        [path] = parquet_files(url)
        frame = pd.read_parquet(path)
        assert tuple(frame.columns) == FIELDS
        assert frame["time"].dt.tz is not None
        assert frame["prediction_set"].iloc[0].tolist() == [1]

    def test_duplicates_are_written_once(self, url: str) -> None:
        store_segment(url, "copy", record_lines("a", "f"))
        assert compact(url) == (1, 4, 6)
        assert everything_in(url) == [f"record-{name}" for name in IDS]

    def test_an_empty_log(self, tmp_path: Path) -> None:
        assert compact(str(tmp_path / "missing")) == (0, 0, 0)

    def test_open_segments_stay(self, url: str) -> None:
        path = Path(url, files(url)[0]).with_name("20261128T000000.000000Z-abcdef-000000.jsonl.gz.part")
        path.write_bytes(b"open")
        compact(url)
        assert path.read_bytes() == b"open"

    def test_on_the_command_line(self, url: str) -> None:
        result = CliRunner().invoke(app, ["--log", url, "--before", "2026-11-28"])
        assert "Replaced 0 files of 0 days" in result.output
        result = CliRunner().invoke(app, [], env={"MLOPS_LOG_URL": url})
        assert "Replaced 3 files of 1 days by Parquet files with 6 records" in result.output


class TestInterruptedCompaction:
    @pytest.mark.parametrize(("method", "number"), [("upload", 0), ("download", 0), *(("remove", n) for n in range(3))])
    def test_loses_and_duplicates_nothing(
        self, url: str, monkeypatch: pytest.MonkeyPatch, method: str, number: int
    ) -> None:
        with monkeypatch.context() as patch:
            on_call(patch, method, fail, number)
            with pytest.raises(StorageError, match="killed"):
                compact(url)
        assert ids_in(url) == IDS
        compact(url)
        assert len(files(url)) == 1
        assert everything_in(url) == [f"record-{name}" for name in IDS]

    @pytest.mark.parametrize("content", [b"", b"PAR1", None])
    def test_a_file_that_is_not_as_it_was_written(
        self, url: str, monkeypatch: pytest.MonkeyPatch, content: bytes | None
    ) -> None:
        def damage() -> None:
            [path] = parquet_files(url)
            path.write_bytes(path.read_bytes()[:-9] if content is None else content)

        before = files(url)
        on_call(monkeypatch, "upload", damage, after=True)
        with pytest.raises(DataError, match="Only 0 of 6 records could be read back"):
            compact(url)
        assert files(url) == before


class TestConcurrentCompaction:
    @pytest.mark.parametrize("request_id", ["a", "c"])
    @pytest.mark.parametrize(("method", "after"), [("upload", False), ("upload", True), ("state", True)])
    def test_what_is_erased_does_not_come_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, after: bool, request_id: str
    ) -> None:
        url = str(tmp_path)
        store_segment(url, "0", record_lines("a", "b"))
        store_segment(url, "1", record_lines("c"))  # vanishes as a whole
        on_call(monkeypatch, method, lambda: erase(url, request_id), after=after)
        compact(url)
        compact(url)
        left = [name for name in ("a", "b", "c") if name != request_id]
        assert everything_in(url) == [f"record-{name}" for name in left]

    @pytest.mark.parametrize(
        ("method", "number"),
        [("state", 0), ("state", 3), ("state", 5), ("read", 1), ("upload", 0), ("download", 0), ("remove", 0)],
    )
    @pytest.mark.parametrize("compacted", [False, True])
    def test_of_the_same_day(
        self, url: str, monkeypatch: pytest.MonkeyPatch, method: str, number: int, compacted: bool
    ) -> None:
        if compacted:
            compact(url)
            store_segment(url, "late-1", record_lines("g"))
            store_segment(url, "late-2", record_lines("h"))
        expected = [*IDS, "g", "h"] if compacted else IDS
        on_call(monkeypatch, method, lambda: compact(url), number)
        compact(url)
        assert ids_in(url) == expected
        compact(url)
        assert everything_in(url) == [f"record-{name}" for name in expected]

    def test_a_reader_gets_all_records(self, url: str) -> None:
        records = read_records(url)
        first = next(records)
        compact(url)
        assert sorted(record["request_id"] for record in [first, *records]) == IDS

    def test_a_search_for_a_request_finds_it_in_a_new_file(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        on_call(monkeypatch, "read", lambda: compact(url))
        erase(url, "e")
        assert ids_in(url) == ["a", "b", "c", "d", "f"]


class TestDamagedFiles:
    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: content[:-20],
            lambda content: content[:-6] + bytes([content[-6] ^ 1]) + content[-5:],  # the checksum
            lambda content: b"nonsense",
            lambda content: b"",
            lambda content: content + content,
            lambda content: gzip.compress(gzip.decompress(content) + b"{}\n"),
            lambda content: gzip.compress(gzip.decompress(content) + b'{"schema_version": 99}\n'),
            lambda content: gzip.compress(gzip.decompress(content).replace(b'"width"', b'"added": 1, "width"')),
        ],
        ids=["truncated", "checksum", "nonsense", "empty", "twice", "no record", "later version", "later field"],
    )
    def test_a_damaged_segment_is_kept(
        self, url: str, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
    ) -> None:
        path = Path(url, files(url)[1])
        path.write_bytes(damage(path.read_bytes()))
        damaged, readable = path.read_bytes(), ids_in(url)
        assert compact(url) == (1, 2, 4)
        assert f"Kept {path}" in caplog.text
        assert path.read_bytes() == damaged
        assert ids_in(url) == readable
        after = files(url)
        assert compact(url) == (0, 0, 0)
        assert files(url) == after

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: content[:-20],
            lambda content: content[:100],
            lambda content: b"",
            lambda content: b"nonsense",
            lambda content: content[:4000] + bytes([content[4000] ^ 255]) + content[4001:],
            lambda content: content[:-2000] + bytes(1000) + content[-1000:],
        ],
    )
    def test_a_damaged_parquet_file(
        self, url: str, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
    ) -> None:
        compact(url)
        [path] = parquet_files(url)
        damaged = damage(path.read_bytes())
        path.write_bytes(damaged)
        store_segment(url, "late", record_lines("late"))
        assert ids_in(url) == ["late"]
        assert f"Skipped the file {path}" in caplog.text
        assert compact(url) == (1, 1, 1)
        assert compact(url) == (0, 0, 0)
        assert path.read_bytes() == damaged
        assert erase(url, "late").records == 1
        assert f"{path} cannot be searched" in caplog.text

    @pytest.mark.parametrize(
        "table",
        [
            pa.table({"a": [1, 2]}),
            pa.table({"request_id": ["x", None], "time": pa.array([2**62, 0], pa.timestamp("us", "UTC"))}),
            pa.table({"request_id": [1, 2]}),
            pa.table({"request_id": pa.array([b"\xff\xff", b"\xfe"]).view(pa.string())}),
            pa.table({"request_id": pa.array([], pa.string())}),
            pa.table([pa.array([1, 2]), pa.array([3, 4])], names=["request_id", "request_id"]),
        ],
    )
    def test_a_parquet_file_of_something_else(self, url: str, table: pa.Table) -> None:
        path = Path(url, "records/date=2026-11-28/other.parquet")
        parquet.write_table(table, path)
        content = path.read_bytes()
        assert ids_in(url) == IDS
        compact(url)
        assert ids_in(url) == IDS
        assert erase(url, "a").records == 1
        if len(table):
            assert path.read_bytes() == content

    @pytest.mark.parametrize(
        ("name", "value"),
        [("predicted_class", "x"), ("energy", float("inf")), ("is_unknown", 3), ("time", "yesterday"), ("image", 1.5)],
    )
    def test_rows_with_wrong_values(self, url: str, caplog: pytest.LogCaptureFixture, name: str, value: object) -> None:
        rows = [json.loads(line) for line in record_lines("x", "y")]
        path = Path(url, "records/date=2026-11-28/other.parquet")
        parquet.write_table(pa.Table.from_pylist([row | {name: value} for row in rows]), path)
        assert ids_in(url) == IDS
        assert f"Skipped 2 lines of {path}" in caplog.text


class TestErasing:
    def test_a_request(self, url: str) -> None:
        compact(url)
        store_segment(url, "late", record_lines("a"))
        assert erase(url, "a") == (2, 0, 0, 0)
        assert ids_in(url) == IDS[1:]
        assert erase(url, "a") == (0, 0, 0, 0)
        [path] = parquet_files(url)
        assert b"record-a" not in path.read_bytes()
        assert tuple(parquet.read_schema(path).names) == FIELDS

    def test_the_last_record_of_a_file(self, url: str) -> None:
        compact(url)
        for name in IDS:
            assert erase(url, name) == (1, 0, 0, 0)
        assert files(url) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_full_disk(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(url)
    monkeypatch.setattr("src.mlops.monitoring.compact.Path", lambda *_: Path("/dev/full"))
    with pytest.raises(StorageError, match="Free some space"):
        compact(url)
    assert files(url) == before


def test_a_log_with_parquet_files_needs_pyarrow(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compact(url)
    for name in list(sys.modules):
        if name.startswith("src.mlops.monitoring.parquet"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("src.mlops.monitoring.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for action in (lambda: ids_in(url), lambda: erase(url, "a")):
        with pytest.raises(StorageError, match="uv sync --group predict"):
            action()
