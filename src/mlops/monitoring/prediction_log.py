"""Records predictions, off the request path: requests only append to a bounded queue, threads do the rest.

    requests → queue → thread: descriptors, JSON, compression → segment on the local disk → thread: upload to a bucket

Nothing here delays a prediction or makes it fail. A record that cannot be kept is counted and dropped.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from src.mlops.io.storage import Folder, Storage, open_storage
from src.mlops.monitoring.images import Sampler
from src.mlops.monitoring.record import Batch
from src.mlops.monitoring.segments import recover
from src.mlops.monitoring.spool import Housekeeper, create_spool, limit_spool, spool_folder
from src.mlops.monitoring.writer import Count, Writer

logger = logging.getLogger(__name__)
QUEUE_BYTES = 32 * 1024 * 1024  # 2,600 images of 48 px: 7 s at 400 images per second
_BOTH = ("written", "dropped_queue_full", "dropped_disk", "dropped_spool_full")
OUTCOMES = {  # what is counted, with all outcomes
    "records": (*_BOTH, "dropped_shutdown", "dropped_error"),
    "images": _BOTH,
    "uploads": ("uploaded", "failed"),
}
_GATHER_SECONDS = 0.25  # describing several images together takes less time
_CHUNK = 64  # images that are written together
# Once glibc has freed a block of this size, it keeps smaller ones instead of returning them to the system. Otherwise,
# new pages for the intermediate arrays would double the time of the descriptors.
_LARGE_BLOCK = 4 * 1024 * 1024


@dataclass(frozen=True)
class LogOptions:
    """Where and how predictions are recorded.

    Attributes:
        url: A folder or a `gs://` URL.
        flush_seconds: Records of this time can be lost if the process is killed.
        segment_seconds: Time after which a segment is closed, and uploaded to a bucket.
        spool: Folder for files that are not uploaded yet; an empty string selects a temporary folder.
        spool_bytes: Size of these files together.
        image_share: Share of the images to store, 0 (none) to 1.
        image_days: Days for which they are kept.
        image_bytes: Size of all images together.
    """

    url: str
    flush_seconds: float = 2.0
    segment_seconds: float = 60.0
    spool: str = ""
    spool_bytes: int = 32 * 1024 * 1024
    image_share: float = 0.0
    image_days: int = 30
    image_bytes: int = 1024**3


class PredictionLog:
    """The prediction log of one process.

    Args:
        options: Where and how predictions are recorded.
        count: Called with a key of `OUTCOMES`, one of its outcomes, and a number to add to it. Must be thread-safe.

    Attributes:
        keeps_images: Whether `append` needs the content of the images.
        storages: The storage of the log, and the local spool if there is one. Records are in one of them.

    Raises:
        StorageError: The URL cannot be used.
    """

    def __init__(self, options: LogOptions, count: Count) -> None:
        storage = open_storage(options.url)
        self._is_spooled = not isinstance(storage, Folder)
        self._local = storage.path if isinstance(storage, Folder) else spool_folder(options.spool, storage.url)
        self._options, self._count = options, count
        self.keeps_images = options.image_share > 0
        self.storages: list[Storage] = [storage, Folder(self._local)] if self._is_spooled else [storage]
        self._sampler = Sampler(options.image_share)
        self._queue: deque[Batch] = deque()
        self._held = 0  # bytes of the batches in the queue, and of those that are being written
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._interval = min(_GATHER_SECONDS, options.flush_seconds / 4)
        prepare = (lambda: create_spool(self._local)) if self._is_spooled else lambda: None
        self._writer = Writer(self._local, prepare, options.flush_seconds, options.segment_seconds, count)
        self._housekeeper = Housekeeper(self._local, storage, options.image_days, options.image_bytes, count)
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)

    def start(self) -> None:
        """Starts the threads. They first recover what killed processes left behind."""
        self._thread.start()
        self._housekeeper.start()

    def append(self, batch: Batch) -> None:
        """Takes the predictions of a micro-batch. Never blocks for long, and never raises an error.

        If the queue is full, the records are dropped. If it is half full, only the images are.
        """
        try:
            with self._lock:
                batch = self._with_chosen_images(batch)
                size = batch.nbytes
                if self._held + size <= QUEUE_BYTES:
                    self._held += size
                    self._queue.append(batch)
                    return
            self._count("records", "dropped_queue_full", len(batch.origins))
        except Exception:
            logger.exception("Predictions cannot be recorded")
            self._count("records", "dropped_error", len(batch.origins))

    def close(self, seconds: float) -> None:
        """Writes and uploads the rest, for at most `seconds`."""
        deadline = time.monotonic() + seconds
        self._closing.set()
        self._thread.join(seconds)
        if self._thread.is_alive():
            with self._lock:
                lost = sum(len(batch.origins) for batch in self._queue)
                self._queue.clear()
            self._count("records", "dropped_shutdown", lost)
            logger.error("%d predictions could not be recorded within %.0f s before the end", lost, seconds)
        self._housekeeper.stop(max(0.1, deadline - time.monotonic()))

    def _with_chosen_images(self, batch: Batch) -> Batch:
        """Returns the batch without the content of the images that are not stored."""
        if not self.keeps_images and not any(origin.content for origin in batch.origins):
            return batch
        drawn = [self._sampler.chooses(prediction) for prediction in batch.predictions]
        origins = [
            origin._replace(content=origin.content if chosen else None, image_probability=probability)
            for origin, (chosen, probability) in zip(batch.origins, drawn, strict=True)
        ]
        smaller = batch._replace(origins=origins)
        stored = sum(chosen for chosen, _ in drawn)
        if stored and self._held + smaller.nbytes > QUEUE_BYTES // 2:
            self._count("images", "dropped_queue_full", stored)
            without = [origin._replace(content=None, image_probability=0.0) for origin in origins]
            return batch._replace(origins=without)
        return smaller

    def _run(self) -> None:
        try:
            recover(self._local)
        except OSError as error:
            logger.warning("Segments of killed processes in %s cannot be recovered: %s", self._local, error)
        self._housekeeper.wake()
        np.empty(_LARGE_BLOCK, np.uint8)
        pause = self._interval
        while True:
            closing = self._closing.wait(pause)
            started = time.perf_counter()
            for batches in self._chunks():
                self._writer.write(batches)
                self._flush_and_close()
            self._flush_and_close()
            if closing:
                self._writer.close()
                return
            pause = max(0, started + self._interval - time.perf_counter())

    def _chunks(self) -> Iterator[list[Batch]]:
        """Yields the batches that are in the queue now, several at a time."""
        for _ in range(len(self._queue)):
            chunk: list[Batch] = []
            while self._queue and sum(len(batch.origins) for batch in chunk) < _CHUNK:
                chunk.append(self._queue.popleft())
            if not chunk:
                return
            yield chunk
            with self._lock:
                self._held -= sum(batch.nbytes for batch in chunk)

    def _flush_and_close(self) -> None:
        if not self._writer.flush_and_close(time.perf_counter() + self._interval) or not self._is_spooled:
            return
        self._housekeeper.wake()
        try:
            records, images = limit_spool(self._local, self._options.spool_bytes)
        except OSError as error:
            logger.warning("The size of %s cannot be limited: %s", self._local, error)
            return
        if records or images:
            logger.warning("Deleted %d records and %d images that could not be uploaded: the spool is full",
                           records, images)  # fmt: skip
            self._count("records", "dropped_spool_full", records)
            self._count("images", "dropped_spool_full", images)
