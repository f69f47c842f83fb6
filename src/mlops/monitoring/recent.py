"""The records of the last days in memory, without embeddings: what `/feedback` and `/review` search.

Also records in segments that are still written are found, on the machine that writes them. Each file is read once, and
again if its size changes. Files of compacted days need pyarrow, which the service image does not have: these days are
left out, and reported.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from src.mlops.errors import DataError, MissingFileError, StorageError
from src.mlops.io.storage import Storage
from src.mlops.monitoring.images import is_uncertain
from src.mlops.monitoring.labels import Subject
from src.mlops.monitoring.read import PARQUET, read_file
from src.mlops.monitoring.segments import CLOSED, OPEN, RECORDS

logger = logging.getLogger(__name__)
MAX_RECORDS = 50_000  # in memory, about 40 MB; the newest ones
REFRESH_SECONDS = 1.0  # between two searches for new files
_DEFAULTS: dict[str, Any] = {  # fields that can be null
    "request_id": "",
    "image_number": 0,
    "probability": 0.0,
    "prediction_set": (),
    "is_unknown": False,
}


class Recent(NamedTuple):
    """A record without its embedding and descriptors (docs/reference/prediction-log.md)."""

    record_id: str
    time: datetime
    request_id: str
    image_number: int
    model_version: str
    class_list: str
    predicted_class: int
    class_name: str | None
    probability: float
    prediction_set: Sequence[int]
    is_unknown: bool
    image: str | None
    image_probability: float | None

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Recent":
        """Reads the fields of a record."""
        values: dict[str, Any] = {
            name: _DEFAULTS.get(name) if (value := record.get(name)) is None else value for name in cls._fields
        }
        return cls(**values)

    @property
    def subject(self) -> Subject:
        """Returns what a label needs to know."""
        return Subject(self.record_id, self.request_id, self.image_number, self.class_list)

    @property
    def is_uncertain(self) -> bool:
        """Returns whether the image is unknown, or its prediction set does not have exactly one class."""
        return is_uncertain(self.is_unknown, self.prediction_set)


class _File(NamedTuple):
    size: int
    records: dict[str, Recent]


class RecentRecords:
    """The newest records of a log, at most `MAX_RECORDS`.

    Args:
        storages: The storage of the log, and the spool if there is one.
        days: Number of days to search.

    Attributes:
        unreadable: Days with files that this process cannot read.
    """

    def __init__(self, storages: Sequence[Storage], days: int) -> None:
        self._storages, self._days = storages, days
        self._files: dict[tuple[int, str], _File] = {}
        self._refreshed = float("-inf")
        self._lock = threading.Lock()
        self.unreadable: set[date] = set()

    def all(self) -> dict[str, Recent]:
        """Returns the records by their ID.

        Raises:
            StorageError: The log cannot be read.
        """
        with self._lock:
            if time.monotonic() >= self._refreshed + REFRESH_SECONDS:
                self._refresh()
            return {key: record for file in self._files.values() for key, record in file.records.items()}

    def find(self, wanted: Callable[[Recent], bool]) -> list[Recent]:
        """Returns the records that fulfil a condition, and were not erased meanwhile.

        Raises:
            StorageError: The log cannot be read.
        """
        found = [record for record in self.all().values() if wanted(record)]
        if not found or all(map(self._is_current, found)):
            return found
        with self._lock:
            self._refresh()
        return [record for record in self.all().values() if wanted(record)]

    def _is_current(self, record: Recent) -> bool:
        """Returns whether the file with a record is unchanged. Only its folder is listed, so this is fast."""
        with self._lock:
            places = [(key, file.size) for key, file in self._files.items() if record.record_id in file.records]
        for (place, name), size in places:
            now = self._storages[place].sizes(name.rpartition("/")[0]).get(name, -1)
            if now != size and not (name.endswith(OPEN) and now > size):  # open segments only grow
                return False
        return bool(places)

    def _refresh(self) -> None:
        files: dict[tuple[int, str], _File] = {}
        self.unreadable = set()
        left = MAX_RECORDS
        for day in self._newest_first():
            for place, storage in enumerate(self._storages):
                for name, size in reversed(storage.sizes(f"{RECORDS}/date={day}").items()):
                    if left <= 0 or not name.endswith((CLOSED, OPEN, PARQUET)):
                        continue
                    known = self._files.get((place, name))
                    file = known if known and known.size == size else _File(size, self._read(storage, name, day))
                    files[place, name] = file
                    left -= len(file.records)
        self._files, self._refreshed = files, time.monotonic()

    def _newest_first(self) -> Iterable[date]:
        tomorrow = datetime.now(UTC).date() + timedelta(days=1)  # by the clock of another machine
        return (tomorrow - timedelta(days=ago) for ago in range(self._days + 1))

    def _read(self, storage: Storage, name: str, day: date) -> dict[str, Recent]:
        return {record.record_id: record for record in self._intact(storage, name, day)}

    def _intact(self, storage: Storage, name: str, day: date) -> Iterator[Recent]:
        try:
            yield from (Recent.of(record) for record in read_file(storage, name) if record)
        except MissingFileError:
            return  # erased, or closed: the next search finds it under its new name
        except DataError as error:
            if not name.endswith(OPEN):
                logger.warning("Read only a part of %s/%s: %s", storage.url, name, error)
        except StorageError as error:
            if not name.endswith(PARQUET):
                raise
            self.unreadable.add(day)
            logger.info("Left out the records of %s: %s", day, error)
