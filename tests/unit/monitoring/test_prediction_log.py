"""Tests the prediction log: what is written, what is lost and counted, and what is recovered, read and erased."""

import base64
import gzip
import json
import logging
import os
import random
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from src.mlops import ROOT
from src.mlops.data.gtsrb import SIGNS
from src.mlops.errors import DataError, StorageError
from src.mlops.io.storage import Folder
from src.mlops.monitoring import prediction_log, writer
from src.mlops.monitoring.compact import compact
from src.mlops.monitoring.descriptors import DESCRIPTORS, describe
from src.mlops.monitoring.erase import app as erasing
from src.mlops.monitoring.erase import erase
from src.mlops.monitoring.frame import read_frame
from src.mlops.monitoring.images import Sampler, expire, image_name, store_image
from src.mlops.monitoring.prediction_log import LogOptions, PredictionLog
from src.mlops.monitoring.read import read_records
from src.mlops.monitoring.schema import FIELDS, KINDS, SCHEMA_VERSION
from src.mlops.monitoring.segments import RECORDS, hold_lock, read_lines, recover
from tests.helpers.images import encode, make_image
from tests.helpers.recording import PNG, Counts, batch, prediction, wait_until

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


@contextmanager
def recording(url: Path | str, counts: Counts | None = None, **options: object) -> Iterator[PredictionLog]:
    log = PredictionLog(LogOptions(str(url), **{"flush_seconds": 0.1} | options), counts or Counts())  # type: ignore[arg-type]
    log.start()
    try:
        yield log
    finally:
        log.close(30)


def segments(folder: Path) -> list[Path]:
    return sorted((folder / RECORDS).glob("*/*.jsonl.gz"))


def write_segment(folder: Path, *batches_of_ids: list[str], moment: datetime = NOON) -> Path:
    """Writes a closed segment with the records of requests."""
    with recording(folder) as log:
        for ids in batches_of_ids:
            log.append(batch(*ids, moment=moment.timestamp()))
    return segments(folder)[-1]


def leave_open(folder: Path, *flushed: bytes) -> Path:
    """Writes an open segment as a process leaves it behind that is killed after it has flushed its records."""
    part = folder / RECORDS / "date=2026-11-30" / "20261130T000000.000000Z-abcdef-000000.jsonl.gz.part"
    part.parent.mkdir(parents=True)
    compressor = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    part.write_bytes(b"".join(compressor.compress(lines) + compressor.flush(zlib.Z_SYNC_FLUSH) for lines in flushed))
    return part


def ids_in(folder: Path | str) -> list[str]:
    return [record["request_id"] for record in read_records(str(folder))]


def test_every_field(tmp_path: Path) -> None:
    counts = Counts()
    one = batch("a-1", "a-2", predictions=[prediction(3, kept=[3, 5]), prediction(7, is_unknown=True)])
    with recording(tmp_path, counts) as log:
        log.append(one)
    [segment] = segments(tmp_path)
    first, second = map(json.loads, gzip.decompress(segment.read_bytes()).splitlines())
    assert set(first) == set(FIELDS)
    described = {name: pytest.approx(values[1], abs=1e-6) for name, values in describe(one.arrays).items()}
    assert second == {
        "schema_version": 1,
        "record_id": second["record_id"],
        "time": datetime.fromtimestamp(one.time, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "request_id": "a-2",
        "image_number": 0,
        "model_version": "0123456789ab",
        "class_list": SIGNS.fingerprint,
        "predicted_class": 7,
        "class_name": SIGNS[7].name,
        "probability": 0.987654,
        "prediction_set": [1],
        "is_unknown": True,
        "energy": 1.0,
        **described,
        "width": 40,
        "height": 30,
        "jpeg_quality": 90,
        "latency_ms": pytest.approx(4),
        "image": None,
        "image_probability": None,
        "shadow_model_version": None,
        "shadow_predicted_class": None,
        "shadow_probability": None,
        "shadow_is_unknown": None,
        "embedding": second["embedding"],
    }
    embedding = np.frombuffer(base64.b64decode(second["embedding"]), "<f2")
    np.testing.assert_allclose(embedding, one.embedding[1], rtol=1e-3)
    assert first["prediction_set"] == [3, 5]
    assert first["record_id"] != second["record_id"]
    assert counts.of("records") == {"written": 2}


def test_the_documentation_lists_every_field(tmp_path: Path) -> None:
    document = (ROOT / "docs/reference/prediction-log.md").read_text()
    kinds = {"time": "text", "flag": "true or false", "integers": "list of integers"}
    [line] = gzip.decompress(write_segment(tmp_path, ["a"]).read_bytes()).splitlines()
    assert tuple(json.loads(line)) == FIELDS
    for name, kind in KINDS.items():
        assert f"| `{name}` | {kinds.get(kind, kind)}" in document
    for name, meaning in DESCRIPTORS.items():
        assert f"| `{name}` | number | {meaning} |" in document
    assert f"schema version is {SCHEMA_VERSION}." in document


def test_pandas_reads_a_segment(tmp_path: Path) -> None:
    frame = pd.read_json(write_segment(tmp_path, ["a", "b"], ["c"]), lines=True)
    assert list(frame["request_id"]) == ["a", "b", "c"]
    assert pd.to_datetime(frame["time"]).eq(NOON).all()


def test_a_closed_segment_is_one_gzip_member(tmp_path: Path) -> None:
    with recording(tmp_path) as log:
        for number in range(3):
            log.append(batch(f"r-{number}"))
            wait_until(lambda: not log._queue)  # noqa: SLF001 - several flushes
    [segment] = segments(tmp_path)
    lines, fault = read_lines(segment.read_bytes())
    assert (len(lines), fault) == (3, None)


def test_segments_are_closed_by_time_and_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with recording(tmp_path, segment_seconds=0.1) as log:
        log.append(batch("a"))
        wait_until(lambda: len(segments(tmp_path)) == 1)
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 100)
    with recording(tmp_path, segment_seconds=3600) as log:
        log.append(batch("b"))
        wait_until(lambda: len(segments(tmp_path)) == 2)
    assert ids_in(tmp_path) == ["a", "b"]
    assert not list(tmp_path.glob("**/*.part"))
    assert not list(tmp_path.glob(".locks/*"))


def test_records_are_flushed_within_the_time_of_the_setting(tmp_path: Path) -> None:
    counts = Counts()
    with recording(tmp_path, counts, flush_seconds=0.2, segment_seconds=3600) as log:
        log.append(batch("a"))
        wait_until(lambda: counts.of("records") == {"written": 1})
        [part] = tmp_path.glob("records/*/*.part")
        lines, fault = read_lines(part.read_bytes())
        assert (len(lines), fault) == (1, "its end is missing")
        assert ids_in(tmp_path) == []  # readers ignore open segments


def test_an_idle_log_writes_nothing(tmp_path: Path) -> None:
    with recording(tmp_path / "log"):
        pass
    assert not (tmp_path / "log").exists()


def test_a_full_queue_drops_and_counts_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts()
    log = PredictionLog(LogOptions(str(tmp_path)), counts)
    first = batch("a", "b")
    monkeypatch.setattr(prediction_log, "QUEUE_BYTES", 3 * first.arrays.nbytes + 10_000)
    for number in range(5):
        log.append(batch(f"c{number}", f"d{number}"))
    log.start()  # the thread was slow
    log.close(30)
    found = counts.of("records")
    assert found == {"written": len(ids_in(tmp_path)), "dropped_queue_full": 10 - found["written"]}
    assert 2 <= found["written"] < 10


def test_a_disk_error_costs_nothing_but_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0)
    counts, folder = Counts(), tmp_path / "log"
    folder.write_text("a file, so that no folder can be created")
    with recording(folder, counts) as log:
        log.append(batch("a", "b"))
        wait_until(lambda: counts.of("records") == {"dropped_disk": 2})
        log.append(batch("c"))
        wait_until(lambda: counts.of("records") == {"dropped_disk": 3})
        folder.unlink()
        log.append(batch("d"))
    assert counts.of("records") == {"dropped_disk": 3, "written": 1}
    assert ids_in(folder) == ["d"]
    assert [record.levelname for record in caplog.records if "not recorded" in record.message] == ["ERROR"]


FULL_DISK = """
import resource, sys
from tests.helpers.recording import Counts, batch
from src.mlops.monitoring import writer
from src.mlops.monitoring.prediction_log import LogOptions, PredictionLog
writer.RETRY_SECONDS = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # writing more raises OSError, as on a full disk
counts = Counts()
log = PredictionLog(LogOptions(sys.argv[1], flush_seconds=0.1), counts)
log.start()
import time
for number in range(200):
    log.append(batch(*[f"r-{number}-{place}" for place in range(4)]))
    time.sleep(0.005)
log.close(30)
found = counts.of("records")
print(found["written"], found["dropped_disk"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for the size of files")
def test_a_disk_that_becomes_full_keeps_what_was_flushed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    written, dropped = map(int, printed.split())
    assert written + dropped == 800
    assert dropped
    assert len(ids_in(tmp_path)) == written > 0


def test_a_segment_of_a_killed_process_is_recovered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    part = leave_open(tmp_path, b'{"a": 1}\n{"a": 2}\n', b'{"a": 3}\n' + os.urandom(50_000).hex().encode())
    part.write_bytes(part.read_bytes()[:-20_000])  # killed while it wrote
    recover(tmp_path)
    [segment] = segments(tmp_path)
    assert gzip.decompress(segment.read_bytes()) == b'{"a": 1}\n{"a": 2}\n{"a": 3}\n'
    assert not part.exists()
    assert "3 records" in caplog.text
    recover(tmp_path)  # nothing is left to do


def test_a_segment_in_use_is_not_recovered(tmp_path: Path) -> None:
    part = leave_open(tmp_path, b'{"a": 1}\n')
    with hold_lock(tmp_path, "abcdef"):
        other = threading.Thread(target=recover, args=(tmp_path,))
        other.start()
        other.join()
        assert part.exists()
    recover(tmp_path)
    assert not part.exists()


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"nonsense", gzip.compress(b"no complete line", mtime=0)])
def test_an_empty_or_broken_segment_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    part = tmp_path / RECORDS / "date=2026-11-30" / "20261130T000000.000000Z-abc-000000.jsonl.gz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    recover(tmp_path)
    assert [path.name for path in part.parent.iterdir()] == []


def test_several_processes_write_and_recover_in_one_folder(tmp_path: Path) -> None:
    leave_open(tmp_path, gzip.decompress(write_segment(tmp_path / "other", ["old"]).read_bytes()))
    code = (
        "import sys; from tests.helpers.recording import *\n"
        "from src.mlops.monitoring.prediction_log import *\n"
        "log = PredictionLog(LogOptions(sys.argv[1]), Counts()); log.start()\n"
        "[log.append(batch(f'{sys.argv[2]}-{number}')) for number in range(50)]; log.close(30)"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)], cwd=ROOT) for n in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    wanted = ["old", *(f"{process}-{number}" for process in range(3) for number in range(50))]
    assert sorted(ids_in(tmp_path)) == sorted(wanted)
    assert len(segments(tmp_path)) == 4


def test_a_defect_loses_the_records_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = Counts()
    with recording(tmp_path, counts) as log:
        log.append(batch("a")._replace(embedding=None))  # type: ignore[arg-type]
        log.append(batch("b")._replace(arrays=np.zeros((1, 2, 2, 3), np.uint8)))
        wait_until(lambda: counts.of("records") == {"dropped_error": 2})
        log.append(batch("c"))
    assert ids_in(tmp_path) == ["c"]
    assert "cannot be recorded" in caplog.text


def test_infinite_numbers_are_valid_json(tmp_path: Path) -> None:
    with recording(tmp_path) as log:
        one = batch("a")
        one.embedding[0] = [np.inf, -np.inf, 1e30, -1e30, 1, 0]
        log.append(one._replace(energy=np.array([np.nan], np.float32)))
    [record] = read_records(str(tmp_path))
    values = np.frombuffer(base64.b64decode(record["embedding"]), "<f2")
    assert list(values) == [65504, -65504, 65504, -65504, 1, 0]
    assert record["energy"] is None


def test_a_url_that_cannot_be_used() -> None:
    with pytest.raises(StorageError, match="'ftp://somewhere'"):
        PredictionLog(LogOptions("ftp://somewhere"), Counts())


# --- images


def test_off_means_off(tmp_path: Path) -> None:
    with recording(tmp_path) as log:
        assert not log.keeps_images
        log.append(batch("a", "b", content=PNG))  # the service would not even pass the content
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    [segment] = files
    stored = gzip.decompress(segment.read_bytes())
    assert b"PNG" not in stored
    assert PNG[20:60] not in stored
    assert base64.b64encode(PNG)[4:40] not in stored
    pixels = np.asarray(make_image(0, side=24)).tobytes()
    assert pixels[:24] not in stored
    assert base64.b64encode(pixels)[:32] not in stored


def test_images_are_stored_without_their_metadata(tmp_path: Path) -> None:
    counts = Counts()
    exif = Image.Exif()
    exif[0x010E] = "a secret place"  # ImageDescription
    photo = encode(make_image(2, side=800), "JPEG", exif=exif, comment=b"a secret comment", quality=95)
    assert b"a secret place" in photo
    with recording(tmp_path, counts, image_share=1) as log:
        log.append(batch("a", content=photo))
        log.append(batch("b", content=PNG))
    names = {record["request_id"]: record["image"] for record in read_records(str(tmp_path))}
    with Image.open(tmp_path / names["a"]) as image:
        assert (image.format, image.size, image.info) == ("PNG", (512, 512), {})
    with Image.open(tmp_path / names["b"]) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(make_image(3, side=40)))
    assert counts.of("images") == {"written": 2}
    assert names["a"].startswith("images/date=20")


def test_an_image_that_cannot_be_stored_keeps_its_record(tmp_path: Path) -> None:
    counts = Counts()
    with recording(tmp_path, counts, image_share=1) as log:
        log.append(batch("a", content=b"no image"))
    [record] = read_records(str(tmp_path))
    assert record["image"] is None
    assert counts.of("images") == {"dropped_disk": 1}


def test_a_half_full_queue_drops_images_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts()
    log = PredictionLog(LogOptions(str(tmp_path), image_share=1), counts)
    monkeypatch.setattr(prediction_log, "QUEUE_BYTES", 2 * (batch("a").arrays.nbytes + 2_100 + len(PNG)))
    log.append(batch("a", content=PNG))
    log.append(batch("b", content=PNG))
    log.start()
    log.close(30)
    assert counts.of("records") == {"written": 2}
    assert counts.of("images") == {"written": 1, "dropped_queue_full": 1}


def test_sampling_prefers_uncertain_and_unknown_images() -> None:
    sampler = Sampler(0.05)
    kinds = {"certain": prediction(), "uncertain": prediction(kept=[1, 2]), "none": prediction(kept=[])}
    kinds["unknown"] = prediction(is_unknown=True)
    stored = dict.fromkeys(kinds, 0)
    for number in range(10_000):
        kind = "certain" if number % 100 else ("uncertain", "none", "unknown")[number // 100 % 3]
        stored[kind] += sampler.chooses(kinds[kind])[0]
    assert sum(stored[kind] for kind in ("uncertain", "none", "unknown")) == 100
    assert 250 <= stored["certain"] <= 450  # the rest of 5 % and of the balance at the start
    only_uncertain = [Sampler(0.05).chooses(kinds["uncertain"]) for _ in range(3)]
    assert only_uncertain == [(True, 1.0)] * 3
    sampler = Sampler(0.01, random.Random(0))
    assert sum(sampler.chooses(kinds["unknown"])[0] for _ in range(10_000)) <= 10_000 * 0.01 + 50 + 25


def test_every_image_has_a_known_chance_even_if_most_are_uncertain() -> None:
    sampler = Sampler(0.1, random.Random(0))
    uncertain, certain = prediction(kept=[1, 2]), prediction()
    drawn = [sampler.chooses(uncertain if number % 2 else certain) for number in range(20_000)]
    later = drawn[2000::2]  # certain ones, after the balance was spent
    assert [probability for _, probability in later] == pytest.approx([0.02] * len(later))
    assert sum(chosen for chosen, _ in later) == pytest.approx(0.02 * len(later), rel=0.25)
    assert sum(chosen for chosen, _ in drawn) <= 0.1 * len(drawn) + 50 + 50


@pytest.mark.parametrize(("share", "stored"), [(0, 0), (1, 500)])
def test_sampling_of_none_and_of_all(share: float, stored: int) -> None:
    sampler = Sampler(share)
    kinds = [prediction(), prediction(is_unknown=True)]
    assert sum(sampler.chooses(kinds[number % 2])[0] for number in range(500)) == stored


def test_old_images_and_images_above_the_size_limit_are_deleted(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    names = [image_name((now - timedelta(days=days)).timestamp(), f"r-{days}", "a") for days in (40, 3, 2, 1)]
    for name in names:
        store_image(tmp_path, name, PNG)
    size = (tmp_path / names[0]).stat().st_size
    storage = Folder(tmp_path)
    assert expire(storage, 30, 10 * size) == 1
    assert storage.names() == names[1:]
    assert expire(storage, 30, 2 * size) == 1
    assert storage.names() == names[2:]
    assert expire(storage, 30, 2 * size) == 0


def test_the_service_deletes_expired_images_even_if_images_are_off(tmp_path: Path) -> None:
    old = image_name((datetime.now(UTC) - timedelta(days=9)).timestamp(), "r-1", "a")
    store_image(tmp_path, old, PNG)
    with recording(tmp_path, image_days=7):
        wait_until(lambda: not (tmp_path / old).exists())


# --- reading


def test_a_window(tmp_path: Path) -> None:
    for day in range(-3, 4):
        write_segment(tmp_path, [f"day {day}"], moment=NOON + timedelta(days=day))
    every = ids_in(tmp_path)
    assert every == [f"day {day}" for day in range(-3, 4)]
    url = str(tmp_path)
    window = [record["request_id"] for record in read_records(url, NOON - timedelta(days=1), NOON + timedelta(days=1))]
    assert window == ["day -1", "day 0"]
    with pytest.raises(DataError, match="time zone"):
        next(read_records(url, NOON.replace(tzinfo=None)))
    with pytest.raises(DataError, match="is empty"):
        next(read_records(url, NOON, NOON))
    assert ids_in(tmp_path / "missing") == []


def test_only_segments_of_the_days_around_a_window_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for day in (25, 29, 30):
        path = tmp_path / RECORDS / f"date=2026-11-{day}" / f"202611{day}T000000.000000Z-abc-000000.jsonl.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"broken")
    assert list(read_records(str(tmp_path), NOON, NOON + timedelta(hours=1))) == []
    assert [f"date=2026-11-{day}" in caplog.text for day in (25, 29, 30)] == [False, True, True]


def test_broken_segments_are_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truncated = write_segment(tmp_path, [f"a-{number}" for number in range(40)])
    truncated.write_bytes(truncated.read_bytes()[:-1500])
    damaged = write_segment(tmp_path, ["b"])
    content = bytearray(damaged.read_bytes())
    content[-6] ^= 1  # the checksum
    damaged.write_bytes(content)
    write_segment(tmp_path, ["c"])
    foreign = damaged.with_name("20991231T000000.000000Z-abc-000000.jsonl.gz")
    lines = [b"[]", b"{}", b"no json", b'{"schema_version": 99}', b'{"schema_version": "x"}', b"[" * 10_000]
    foreign.write_bytes(gzip.compress(b"\n".join([*lines, b""])))
    found = ids_in(tmp_path)
    assert found[-1] == "c"
    assert found[:-1] == [f"a-{number}" for number in range(len(found) - 1)]
    assert 10 < len(found) < 40
    warnings = caplog.text
    assert f"Read {len(found) - 1} records of {tmp_path}/{truncated.relative_to(tmp_path)}" in warnings
    assert f"Skipped the file {tmp_path}/{damaged.relative_to(tmp_path)}" in warnings
    assert "Skipped 6 lines" in warnings


def test_duplicates_are_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    segment = write_segment(tmp_path, ["a", "b"])
    segment.with_name(f"9{segment.name}").write_bytes(segment.read_bytes())
    assert ids_in(tmp_path) == ["a", "b"]
    assert "2 records" in caplog.text


def test_clocks_that_jump(tmp_path: Path) -> None:
    with recording(tmp_path) as log:
        for hours in (0, -5, 20, 1):
            log.append(batch(f"{hours} h", moment=(NOON + timedelta(hours=hours)).timestamp()))
    assert ids_in(tmp_path) == ["0 h", "-5 h", "20 h", "1 h"]
    assert list(read_frame(str(tmp_path))["request_id"]) == ["-5 h", "0 h", "1 h", "20 h"]


def test_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.mlops.monitoring.frame._CHUNK", 2)
    write_segment(tmp_path, ["a", "b"], ["c"])
    frame = read_frame(str(tmp_path))
    assert list(frame.columns) == list(FIELDS)
    assert np.stack(frame["embedding"].tolist()).dtype == np.float16
    assert str(frame["time"].dtype).endswith("UTC]")
    assert frame["jpeg_quality"].tolist() == [90] * 3
    empty = read_frame(str(tmp_path / "missing"))
    assert (list(empty.columns), len(empty)) == (list(FIELDS), 0)


# --- erasing


def test_erasing_a_request(tmp_path: Path) -> None:
    with recording(tmp_path, image_share=1) as log:
        log.append(batch("a-1", "b", content=PNG))
    with recording(tmp_path, image_share=1) as log:
        log.append(batch("a-1", content=PNG))
        log.append(batch("a-10", content=PNG))  # contains the other ID
    with recording(tmp_path, image_share=1) as log:
        log.append(batch("a-1", content=PNG))
    orphan = image_name(NOON.timestamp(), "lost", "a-1")  # its record was lost when the process was killed
    store_image(tmp_path, orphan, PNG)
    assert erase(str(tmp_path), "a-1") == (3, 4, 0, 0)
    remaining = list(read_records(str(tmp_path)))
    assert [record["request_id"] for record in remaining] == ["b", "a-10"]
    assert sorted(Folder(tmp_path).names("images")) == sorted(record["image"] for record in remaining)
    assert len(segments(tmp_path)) == 2
    assert b'"a-1"' not in b"".join(gzip.decompress(path.read_bytes()) for path in segments(tmp_path))
    assert erase(str(tmp_path), "a-1") == (0, 0, 0, 0)


@pytest.mark.parametrize("name", ["records/date=2026-11-30/.c.parquet-x1", "images/date=2026-11-30/.i.png"])
@pytest.mark.parametrize("clean", [lambda url: erase(url, "a"), compact, lambda url: recover(Path(url))])
def test_temporary_files_of_killed_processes_are_deleted(
    tmp_path: Path, name: str, clean: Callable[[str], object]
) -> None:
    """They have records and images that no reader sees and that `erase` cannot search."""
    leftover = tmp_path / name
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"a")
    clean(str(tmp_path))
    assert leftover.exists()  # another process may write it
    assert erase(str(tmp_path), "a").left_open == 1
    os.utime(leftover, (0, 0))
    clean(str(tmp_path))
    assert not leftover.exists()


def test_erasing_on_the_command_line(tmp_path: Path) -> None:
    write_segment(tmp_path, ["a"], ["b"])
    result = CliRunner().invoke(erasing, ["a", "--log", str(tmp_path)])
    assert (result.exit_code, "Erased 1 records, 0 images" in result.output) == (0, True)
    with recording(tmp_path, segment_seconds=3600) as log:
        log.append(batch("c"))
        wait_until(lambda: list(tmp_path.glob("**/*.part")))
        result = CliRunner().invoke(erasing, ["b"], env={"MLOPS_LOG_URL": str(tmp_path)})
        assert "Run the command again" in result.output
    result = CliRunner().invoke(erasing, ["a", "--log", str(tmp_path)])
    assert isinstance(result.exception, DataError)
    assert "'a'" in str(result.exception)
