"""Windows of the prediction log: `all`, a length such as `24h`, or START/END."""

import logging
import re
from datetime import UTC, datetime, time, timedelta

import pandas as pd

from src.mlops.errors import DataError, shorten
from src.mlops.io.storage import open_storage
from src.mlops.monitoring.frame import read_frame
from src.mlops.monitoring.read import day_of
from src.mlops.monitoring.segments import RECORDS

logger = logging.getLogger(__name__)
ALL = "all"
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_CLOCK_ERROR = timedelta(days=1)  # of the machines that write the log


def read_window(log: str, window: str) -> pd.DataFrame:
    """Reads the records of a window, sorted by time.

    Args:
        log: Folder or `gs://` URL of the prediction log.
        window: `all`; a length such as 30m, 24h, 7d or 4w, which ends at the newest record; or START/END in ISO 8601,
            where one of the two may be empty.

    Raises:
        DataError: The window is not written in one of these forms.
        StorageError: The log cannot be read.
    """
    if window == ALL:
        return read_frame(log)
    if "/" in window:
        return read_frame(log, *_interval(window))
    return _read_newest(log, _length(window))


def _read_newest(log: str, length: timedelta) -> pd.DataFrame:
    """Reads the records up to `length` before the newest one. Other days are not read."""
    latest = datetime.now(UTC) + _CLOCK_ERROR
    days = [day for name in open_storage(log).names(RECORDS) if (day := day_of(name)) and day <= latest.date()]
    newest = datetime.combine(max(days), time(), UTC) if days else None
    frame = read_frame(log, newest - _CLOCK_ERROR - length if newest else None)
    wrong = frame["time"] > latest
    if wrong.any():
        # One such record would move the window to a time in which there are no others, until that time has come.
        logger.warning("Left out %d records from the future, the latest of %s", wrong.sum(), frame["time"].max())
        frame = frame[~wrong]
    return frame[frame["time"] > frame["time"].max() - length] if len(frame) else frame


def _interval(text: str) -> tuple[datetime | None, datetime | None]:
    try:
        start, end = (
            datetime.fromisoformat(part).astimezone(UTC) if part else None for part in text.split("/", maxsplit=1)
        )
    except (ValueError, OverflowError) as error:
        raise _unreadable(text) from error
    return start, end


def _length(text: str) -> timedelta:
    if not (match := re.fullmatch(r"([0-9]{1,5})([mhdw])", text)) or int(match[1]) == 0:
        raise _unreadable(text)
    return int(match[1]) * _UNITS[match[2]]


def _unreadable(text: str) -> DataError:
    return DataError(
        f"The window {shorten(text)} is neither `all`, nor a length such as 30m, 24h, 7d or 4w, nor START/END such as "
        "2026-11-30T00:00Z/2026-12-01T00:00Z."
    )
