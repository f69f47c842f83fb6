"""Turns batches into segments on the local disk. Only the thread of the prediction log uses it."""

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from src.mlops.errors import ImageError
from src.mlops.monitoring.images import image_name, store_image
from src.mlops.monitoring.record import Batch, json_lines
from src.mlops.monitoring.segments import Segment, hold_lock, repair

logger = logging.getLogger(__name__)
SEGMENT_BYTES = 16 * 1024 * 1024  # 9,000 records with an embedding of 864 numbers
RETRY_SECONDS = 5.0  # time without attempts after an error of the disk
Count = Callable[[str, str, int], object]


class Writer:
    """Writes the segments and images of one process. No method raises an error; what is lost is counted.

    Args:
        folder: The local folder of the log.
        prepare: Creates this folder. Can raise OSError.
        flush_seconds: Maximum age of a record that is not flushed.
        segment_seconds: Time after which a segment is closed.
        count: Called with `records` or `images`, an outcome, and a number to add to it.
    """

    def __init__(
        self,
        folder: Path,
        prepare: Callable[[], object],
        flush_seconds: float,
        segment_seconds: float,
        count: Count,
    ) -> None:
        self._folder, self._prepare, self._count = folder, prepare, count
        self._flush_seconds, self._segment_seconds = flush_seconds, segment_seconds
        self._id = secrets.token_hex(6)
        self._locked = ExitStack()
        self._is_locked = False
        self._segment: Segment | None = None
        self._segments = self._records = 0
        self._flush_at = self._close_at = self._retry_at = 0.0
        self._unclosed: list[Path] = []  # segments whose end could not be written
        self._failing = False

    def write(self, batches: Sequence[Batch]) -> None:
        """Writes the records of batches, and their images."""
        records = sum(len(batch.origins) for batch in batches)
        if time.perf_counter() < self._retry_at:
            contents = [origin.content for batch in batches for origin in batch.origins if origin.content]
            self._count("records", "dropped_disk", records)
            self._count("images", "dropped_disk", len(contents))
            return
        try:
            first = self._records
            self._records += records
            ids = [f"{self._id}-{number:x}" for number in range(first, first + records)]
            images = self._store_images(batches, ids)
            lines = json_lines(batches, ids, images)
        except Exception:  # a defect must not end the thread
            logger.exception("%d predictions cannot be recorded", records)
            self._count("records", "dropped_error", records)
            return
        try:
            segment = self._segment or self._open()
            due = min(batch.answered for batch in batches) + self._flush_seconds
            self._flush_at = min(due, self._flush_at) if segment.pending else due
            segment.append(lines, records)
        except Exception as error:  # usually OSError
            self._fail(error, records)

    def flush_and_close(self, until: float) -> bool:
        """Flushes the segment if a record becomes too old before `until`, and closes it if it is old or large enough.

        Args:
            until: The next time at which this method is called, as `time.perf_counter()`.

        Returns:
            Whether a segment was closed.
        """
        segment = self._segment
        if segment is None:
            return False
        closing = until >= self._close_at or segment.size >= SEGMENT_BYTES
        try:
            if segment.pending and (closing or until >= self._flush_at):
                self._count("records", "written", segment.flush())
            if closing:
                segment.close()
                self._segment = None
        except OSError as error:
            self._fail(error, 0)
        return closing

    def close(self) -> None:
        """Closes the segment. Nothing can be written afterwards."""
        self.flush_and_close(float("inf"))
        self._locked.close()

    def _open(self) -> Segment:
        self._prepare()
        if not self._is_locked:
            self._locked.enter_context(hold_lock(self._folder, self._id))
            self._is_locked = True
        while self._unclosed:
            repair(self._unclosed[-1])
            self._unclosed.pop()
        segment = self._segment = Segment(self._folder, self._id, self._segments)
        self._segments += 1
        self._close_at = time.perf_counter() + self._segment_seconds
        if self._failing:
            logger.info("Predictions are recorded again in %s", self._folder)
            self._failing = False
        return segment

    def _fail(self, error: Exception, records: int) -> None:
        """Continues after an error of the disk. The segment keeps the records that were flushed."""
        if segment := self._segment:
            records, self._segment = segment.pending, None
            if unclosed := segment.abandon():
                self._unclosed.append(unclosed)
        self._count("records", "dropped_disk", records)
        if not self._failing:
            logger.error("Predictions are not recorded: cannot write to %s: %s. Further attempts follow.",
                         self._folder, error)  # fmt: skip
        self._failing = True
        self._retry_at = time.perf_counter() + RETRY_SECONDS

    def _store_images(self, batches: Sequence[Batch], ids: Sequence[str]) -> list[str | None]:
        """Stores the images that were chosen. Returns their names, None for all others."""
        images = [(batch.time, origin) for batch in batches for origin in batch.origins]
        names: list[str | None] = []
        for (moment, origin), record_id in zip(images, ids, strict=True):
            names.append(None)
            if origin.content is None:
                continue
            name = image_name(moment, record_id, origin.request_id)
            try:
                store_image(self._folder, name, origin.content)
            except (OSError, ImageError) as error:
                logger.warning("An image of the prediction log cannot be stored: %s", error)
                self._count("images", "dropped_disk", 1)
            else:
                self._count("images", "written", 1)
                names[-1] = name
        return names
