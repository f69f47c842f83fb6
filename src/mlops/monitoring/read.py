"""Reads the records of the prediction log. Needs no pandas, and pyarrow only for a log with Parquet files."""

import logging
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from types import ModuleType

from src.mlops.errors import DataError, MissingFileError, StorageError
from src.mlops.io.storage import Storage, open_storage
from src.mlops.monitoring.schema import EARLIEST, LATEST, SCHEMA_VERSION, Record, check_row, parse_line
from src.mlops.monitoring.segments import CLOSED, RECORDS, TRUNCATED, read_lines

logger = logging.getLogger(__name__)
PARQUET = ".parquet"
_CLOCK_ERROR = 1  # days between the day of a file and the times of its records


def read_records(url: str, start: datetime | None = None, end: datetime | None = None) -> Iterator[Record]:
    """Reads records, file by file in the order of their names, and each file in the order of writing.

    Segments of several processes overlap, and clocks can be set back: sort the records if their order matters. What
    cannot be read is skipped with a warning. A record that occurs twice is returned once.

    Args:
        url: The folder or `gs://` URL of the log.
        start: Time of the first record; None: from the beginning. Must have a time zone.
        end: Time after the last record; None: up to the last closed segment. Must have a time zone.

    Yields:
        The fields of each record (docs/reference/prediction-log.md), with the types that are documented. `time` is a
        `datetime` in UTC.

    Raises:
        DataError: `start` or `end` has no time zone, or `start` is not before `end`.
        StorageError: The log cannot be reached, or it has Parquet files and pyarrow is not installed.
    """
    for moment in (start, end):
        if moment and moment.tzinfo is None:
            raise DataError(f"The time {moment} has no time zone. Use a time such as 2026-11-30T00:00:00+00:00.")
    if start and end and start >= end:
        raise DataError(f"The window of the prediction log is empty: it starts at {start} and ends at {end}.")
    storage = open_storage(url)
    seen: set[str] = set()
    duplicates = 0
    for name in record_files(storage):
        if not _may_contain(name, start, end):
            continue
        for record in _intact(storage, name):
            if (start and record["time"] < start) or (end and record["time"] >= end):
                continue
            if record["record_id"] in seen:
                duplicates += 1
            else:
                seen.add(record["record_id"])
                yield record
    if duplicates:
        logger.warning("Skipped %d records of %s that occur more than once", duplicates, storage.url)


def record_files(storage: Storage) -> Iterator[str]:
    """Yields the names of closed segments and Parquet files, also of those that appear meanwhile.

    Compaction moves records to a new file while others read, so one listing is not enough.
    """
    known: set[str] = set()
    while new := [name for name in storage.names(RECORDS) if name.endswith((CLOSED, PARQUET)) and name not in known]:
        known.update(new)
        yield from new


def day_of(name: str) -> date | None:
    """Returns the day of a file by the name of its folder; None if somebody moved it to another folder."""
    try:
        day = datetime.strptime(name.split("/")[1], "date=%Y-%m-%d").replace(tzinfo=UTC)
    except (ValueError, IndexError):
        return None
    return day.date() if EARLIEST <= day < LATEST else None


def read_file(storage: Storage, name: str) -> Iterator[Record | None]:
    """Yields the records of a segment or a Parquet file, and None for each line or row that is not a record.

    Raises:
        DataError: The file is corrupted. Records that were yielded before are intact.
        MissingFileError: The file does not exist any more.
        StorageError: See `read_records`.
    """
    if name.endswith(PARQUET):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "records.parquet")
            storage.download(name, path)
            yield from map(check_row, parquet_module(storage).read_rows(path))
        return
    lines, fault = read_lines(storage.read(name))
    if fault is None or fault == TRUNCATED:  # otherwise, no line is known to be intact
        yield from map(parse_line, lines)
    if fault:
        raise DataError(fault)


def parquet_module(storage: Storage) -> ModuleType:
    """Imports `parquet.py`, which needs pyarrow.

    Raises:
        StorageError: pyarrow is not installed.
    """
    try:
        from src.mlops.monitoring import parquet
    except ModuleNotFoundError as error:
        raise StorageError(
            f"The prediction log {storage.url} has Parquet files, which need pyarrow ({error}). Install it with "
            "`uv sync --group predict`."
        ) from error
    return parquet


def _may_contain(name: str, start: datetime | None, end: datetime | None) -> bool:
    """Returns whether a file can have records of the window."""
    if not (day := day_of(name)):
        return True
    is_late = end is not None and (day - end.astimezone(UTC).date()).days > _CLOCK_ERROR
    is_early = start is not None and (start.astimezone(UTC).date() - day).days > _CLOCK_ERROR
    return not (is_late or is_early)


def _intact(storage: Storage, name: str) -> Iterator[Record]:
    """Yields the records of a file, and warns about everything else in it."""
    read = unusable = 0
    try:
        for record in read_file(storage, name):
            if record is None:
                unusable += 1
            else:
                read += 1
                yield record
    except MissingFileError:
        return  # erased, or moved to a Parquet file that `record_files` finds
    except DataError as error:
        if read:
            logger.warning("Read %d records of %s/%s; the rest is lost: %s", read, storage.url, name, error)
        else:
            logger.warning("Skipped the file %s/%s of the prediction log: %s", storage.url, name, error)
    if unusable:
        logger.warning(
            "Skipped %d lines of %s/%s, which are no records of schema version %d",
            unusable,
            storage.url,
            name,
            SCHEMA_VERSION,
        )
