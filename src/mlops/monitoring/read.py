"""Reads the records of the prediction log. Needs neither pandas nor pyarrow."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from src.mlops.errors import DataError, MissingFileError
from src.mlops.io.storage import open_storage
from src.mlops.monitoring.record import SCHEMA_VERSION
from src.mlops.monitoring.segments import CLOSED, RECORDS, TRUNCATED, read_lines

logger = logging.getLogger(__name__)
_CLOCK_ERROR = timedelta(days=1)  # between the time in the name of a segment and the times of its records
_REQUIRED = ("record_id", "time", "model_version", "class_list", "predicted_class", "probability", "embedding")


def read_records(url: str, start: datetime | None = None, end: datetime | None = None) -> Iterator[dict[str, Any]]:
    """Reads records, segment by segment in the order of their names, and each segment in the order of writing.

    Segments of several processes overlap, and clocks can be set back: sort the records if their order matters. What
    cannot be read is skipped with a warning. A record that occurs twice is returned once.

    Args:
        url: The folder or `gs://` URL of the log.
        start: Time of the first record; None: from the beginning. Must have a time zone.
        end: Time after the last record; None: up to the last closed segment. Must have a time zone.

    Yields:
        The fields of each record (docs/monitoring.md). `time` is a `datetime` in UTC.

    Raises:
        DataError: `start` or `end` has no time zone, or `start` is not before `end`.
        StorageError: The log cannot be reached.
    """
    for moment in (start, end):
        if moment and moment.tzinfo is None:
            raise DataError(f"The time {moment} has no time zone. Use a time such as 2026-11-30T00:00:00+00:00.")
    if start and end and start >= end:
        raise DataError(f"The window of the prediction log is empty: it starts at {start} and ends at {end}.")
    storage = open_storage(url)
    seen: set[str] = set()
    duplicates = 0
    for name in storage.names(RECORDS):
        if not name.endswith(CLOSED) or not _may_contain(name, start, end):
            continue
        try:
            lines, fault = read_lines(storage.read(name))
        except MissingFileError:
            continue  # deleted meanwhile
        if fault == TRUNCATED:
            logger.warning("Read %d records of %s/%s; the rest is lost: %s", len(lines), storage.url, name, fault)
        elif fault:
            logger.warning("Skipped the segment %s/%s of the prediction log: %s", storage.url, name, fault)
            continue
        unreadable = 0
        for line in lines:
            record = _parsed(line)
            if record is None:
                unreadable += 1
            elif (start and record["time"] < start) or (end and record["time"] >= end):
                continue
            elif record["record_id"] in seen:
                duplicates += 1
            else:
                seen.add(record["record_id"])
                yield record
        if unreadable:
            logger.warning(
                "Skipped %d lines of %s/%s, which are no records of schema version %d",
                unreadable,
                storage.url,
                name,
                SCHEMA_VERSION,
            )
    if duplicates:
        logger.warning("Skipped %d records of %s that occur more than once", duplicates, storage.url)


def _may_contain(name: str, start: datetime | None, end: datetime | None) -> bool:
    """Returns whether a segment can have records of the window, by the day in its name."""
    try:
        day = datetime.strptime(name.split("/")[1], "date=%Y-%m-%d").replace(tzinfo=UTC)
    except (ValueError, IndexError):
        return True  # somebody moved it
    is_late = end is not None and day - _CLOCK_ERROR >= end
    is_early = start is not None and day + timedelta(days=1) + _CLOCK_ERROR <= start
    return not (is_late or is_early)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        if record["schema_version"] > SCHEMA_VERSION or not all(field in record for field in _REQUIRED):
            return None
        record["time"] = datetime.fromisoformat(record["time"]).astimezone(UTC)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return dict(record)
