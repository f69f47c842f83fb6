"""Tests the prediction log with a bucket that fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pandas.testing import assert_frame_equal

from src.mlops.errors import UnreachableError
from src.mlops.io.storage import open_storage
from src.mlops.monitoring import spool
from src.mlops.monitoring.compact import compact
from src.mlops.monitoring.erase import erase
from src.mlops.monitoring.frame import read_frame
from src.mlops.monitoring.labels import Decision, Labels
from src.mlops.monitoring.prediction_log import LogOptions, PredictionLog
from src.mlops.monitoring.read import read_records
from src.mlops.monitoring.recent import RecentRecords
from tests.helpers.recording import PNG, Counts, batch, record_lines, store_segment, wait_until
from tests.helpers.storage_emulator import BUCKET

if TYPE_CHECKING:
    from tests.helpers.storage_emulator import Cloud

URL = f"gs://{BUCKET}/log"


@contextmanager
def recording(folder: Path, counts: Counts, seconds: float = 30, **options: object) -> Iterator[PredictionLog]:
    settings = {"flush_seconds": 0.1, "segment_seconds": 0.1, "spool": str(folder)} | options
    log = PredictionLog(LogOptions(URL, **settings), counts)  # type: ignore[arg-type]
    log.start()
    try:
        yield log
    finally:
        log.close(seconds)


def spooled(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.name.endswith((".jsonl.gz", ".png")))


def test_closed_segments_and_images_are_uploaded(cloud: "Cloud", tmp_path: Path) -> None:
    counts = Counts()
    with recording(tmp_path, counts, image_share=1) as log:
        log.append(batch("a", content=PNG))
        wait_until(lambda: counts.of("uploads") == {"uploaded": 2}, 30)  # without waiting for the end
        log.append(batch("b", "c", content=PNG))
    assert [record["request_id"] for record in read_records(URL)] == ["a", "b", "c"]
    images = [record["image"] for record in read_records(URL)]
    assert sorted(name for name in cloud.objects() if name.endswith(".png")) == sorted(f"log/{name}" for name in images)
    assert spooled(tmp_path) == []
    assert counts.of("records") == {"written": 3}
    assert erase(URL, "a") == (1, 1, 0, 0)
    assert [record["request_id"] for record in read_records(URL)] == ["b", "c"]
    assert len([name for name in cloud.objects() if name.endswith(".png")]) == 2


def test_labels_of_a_record_that_is_not_uploaded_yet(cloud: "Cloud", tmp_path: Path) -> None:
    with recording(tmp_path, Counts(), segment_seconds=60) as log:
        log.append(batch("a"))
        recent = RecentRecords(log.storages, 7)
        wait_until(lambda: recent.find(lambda record: record.request_id == "a"), 30)
        [record] = recent.all().values()
        for class_id in (14, 13, 13):
            Labels(log.storages[0]).add(record.subject, Decision("class", class_id, "a name", "feedback"))
    assert len([name for name in cloud.objects() if name.startswith("log/labels/")]) == 2
    assert [label.class_id for label in Labels(open_storage(URL)).of(record.subject)] == [14, 13]
    assert erase(URL, "a") == (1, 0, 2, 0)
    assert not [name for name in cloud.objects() if name.startswith("log/labels/")]


def test_a_dead_bucket_loses_nothing_after_a_restart(
    cloud: "Cloud", tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts = Counts()
    cloud.fail("503", method="POST")
    with recording(tmp_path, counts) as log:
        log.append(batch("a"))
        wait_until(lambda: counts.of("uploads").get("failed"), 30)
        log.append(batch("b"))
    assert counts.of("records") == {"written": 2}
    assert len(spooled(tmp_path)) == 2
    assert "2 files of the prediction log are not uploaded yet" in caplog.text
    cloud.heal()
    with recording(tmp_path, counts):
        wait_until(lambda: counts.of("uploads").get("uploaded") == 2, 30)
    assert [record["request_id"] for record in read_records(URL)] == ["a", "b"]
    assert spooled(tmp_path) == []


def test_a_bucket_that_answers_again_gets_everything(
    cloud: "Cloud", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "RETRY_SECONDS", (0.05, 0.1))
    counts = Counts()
    cloud.fail("503", method="POST", times=8)
    with recording(tmp_path, counts) as log:
        log.append(batch("a"))
        wait_until(lambda: counts.of("uploads").get("uploaded") == 1, 30)
    assert counts.of("uploads") == {"failed": 1, "uploaded": 1}
    assert [record["request_id"] for record in read_records(URL)] == ["a"]


def test_the_oldest_files_of_a_full_spool_are_deleted_and_counted(cloud: "Cloud", tmp_path: Path) -> None:
    counts = Counts()
    cloud.fail("503", method="POST")
    with recording(tmp_path, counts, image_share=1) as log:
        log.append(batch("a", "b", content=PNG))
        wait_until(lambda: len(spooled(tmp_path)) == 3, 30)
    size = sum(path.stat().st_size for path in spooled(tmp_path) if path.suffix == ".gz")
    with recording(tmp_path, counts, spool_bytes=size + 100) as log:
        log.append(batch("c"))
        wait_until(lambda: counts.of("records").get("dropped_spool_full"), 30)
    assert counts.of("records") == {"written": 3, "dropped_spool_full": 2}
    assert counts.of("images") == {"written": 2, "dropped_spool_full": 2}
    assert len(spooled(tmp_path)) == 1


def test_several_processes_share_a_spool(cloud: "Cloud", tmp_path: Path) -> None:
    counts = Counts()
    with recording(tmp_path, counts) as one, recording(tmp_path, counts) as two:
        for number in range(10):
            one.append(batch(f"one-{number}"))
            two.append(batch(f"two-{number}"))
    wanted = [f"{name}-{number}" for name in ("one", "two") for number in range(10)]
    assert sorted(record["request_id"] for record in read_records(URL)) == wanted
    assert spooled(tmp_path) == []


def test_compaction(cloud: "Cloud") -> None:
    for number in range(3):
        store_segment(URL, str(number), record_lines(f"a-{number}", f"b-{number}"))
    before = read_frame(URL)
    assert compact(URL) == (1, 3, 6)
    [name] = cloud.objects()
    assert name.startswith("log/records/date=2026-11-28/compacted-")
    assert_frame_equal(read_frame(URL), before)
    store_segment(URL, "late", record_lines("late"))
    assert compact(URL) == (1, 2, 7)
    assert erase(URL, "b-1") == (1, 0, 0, 0)
    assert [record["request_id"] for record in read_records(URL)] == ["late", "a-0", "b-0", "a-1", "a-2", "b-2"]
    assert len(cloud.objects()) == 1


def test_compaction_with_a_bucket_that_fails(cloud: "Cloud", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.mlops.io.bucket.ATTEMPTS", 1)
    store_segment(URL, "0", record_lines("a"))
    store_segment(URL, "1", record_lines("b"))
    for method in ("POST", "DELETE"):
        cloud.fail("503", method=method)
        with pytest.raises(UnreachableError):
            compact(URL)
        cloud.heal()
        assert sorted(record["request_id"] for record in read_records(URL)) == ["a", "b"]
    assert compact(URL) == (1, 3, 2)
    assert len(cloud.objects()) == 1


def test_a_spool_of_another_user_is_not_used(
    cloud: "Cloud", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spool, "_user", lambda: 12345)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    counts = Counts()
    with recording(tmp_path, counts, spool="") as log:
        log.append(batch("a"))
    assert counts.of("records") == {"dropped_disk": 1}
    assert "belongs to another user" in caplog.text
