"""Moves closed files of the prediction log from a local folder into a bucket, and deletes expired images.

It has a thread of its own: while a bucket does not answer, records are still written to the local folder.
"""

import hashlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from src.mlops.errors import StorageError
from src.mlops.io.storage import Folder, Storage
from src.mlops.monitoring.images import expire
from src.mlops.monitoring.segments import CLOSED, IMAGES, RECORDS, read_lines

logger = logging.getLogger(__name__)
EXPIRE_SECONDS = 300.0  # interval between deletions of expired images
RETRY_SECONDS = (5.0, 60.0)  # shortest and longest interval after a failed upload
Count = Callable[[str, str, int], object]


class Housekeeper:
    """Uploads closed files, and deletes expired images.

    Several processes can share a spool: one of them uploads at a time.

    Args:
        local: The folder in which segments are written.
        storage: The log, which is the same folder or a bucket.
        image_days: Days for which images are kept.
        image_bytes: Size of all images together.
        count: Called with `uploads`, an outcome and a number of files.
    """

    def __init__(self, local: Path, storage: Storage, image_days: int, image_bytes: int, count: Count) -> None:
        self._local, self._storage = local, storage
        self._limits = image_days, image_bytes
        self._count = count
        self._wake, self._stopping = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="prediction-log-upload", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Reports that there is a new closed file."""
        self._wake.set()

    def stop(self, seconds: float) -> None:
        """Uploads the last files and ends the thread, or leaves the files in the spool after `seconds`."""
        self._stopping = True
        self._wake.set()
        self._thread.join(seconds)
        if self._uploads and (left := len(_closed(self._local))):
            logger.warning("%d files of the prediction log are not uploaded yet. They are in %s.", left, self._local)

    @property
    def _uploads(self) -> bool:
        return not isinstance(self._storage, Folder)

    def _run(self) -> None:
        expire_at, pause = 0.0, EXPIRE_SECONDS
        shortest, longest = RETRY_SECONDS
        retry = shortest
        while True:
            pause = EXPIRE_SECONDS
            self._wake.clear()
            stopping = self._stopping
            try:
                if self._uploads:
                    self._upload()
                if not stopping and time.monotonic() >= expire_at:
                    expire(self._storage, *self._limits)
                    expire_at = time.monotonic() + EXPIRE_SECONDS
                retry = shortest
            except Timeout:
                pause = shortest  # another process uploads, possibly also the files of this one
            except (StorageError, OSError) as error:
                self._count("uploads", "failed", 1)
                logger.warning("The prediction log is not complete in %s, next attempt in %.0f s: %s",
                               self._storage.url, retry, error)  # fmt: skip
                pause, retry = retry, min(2 * retry, longest)
            except Exception:
                logger.exception("Uploading the prediction log failed")
                pause = longest
            if stopping:
                return
            self._pause(pause)

    def _pause(self, seconds: float) -> None:
        """Waits for the next file. After a failure, a new file is no reason to try again earlier; the end is."""
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            if self._wake.wait(left) and seconds == EXPIRE_SECONDS:
                return
            if not self._stopping:
                self._wake.clear()

    def _upload(self) -> None:
        files = _closed(self._local)
        if not files:
            return
        with FileLock(self._local / ".upload.lock", timeout=10 if self._stopping else 0):
            for name in files:
                try:
                    content = (self._local / name).read_bytes()
                except FileNotFoundError:
                    continue  # another process uploaded it, or it was the oldest one in a full spool
                self._storage.write(name, content)
                (self._local / name).unlink(missing_ok=True)
                self._count("uploads", "uploaded", 1)


def limit_spool(local: Path, max_bytes: int) -> tuple[int, int]:
    """Deletes the oldest files until a spool is small enough: images first, then segments.

    Args:
        local: The folder of the spool.
        max_bytes: Size of all closed files together.

    Returns:
        The number of records and of images that are lost.

    Raises:
        OSError: A file cannot be read or deleted.
    """
    sizes = _closed(local)
    total, records, images = sum(sizes.values()), 0, 0
    for name in sorted(sizes, key=lambda name: (not name.startswith(IMAGES), name)):
        if total <= max_bytes:
            break
        total -= sizes[name]
        path = local / name
        with suppress(FileNotFoundError):  # it was uploaded meanwhile
            lines = [] if name.startswith(IMAGES) else read_lines(path.read_bytes())[0]
            path.unlink()
            records += len(lines)
            images += name.startswith(IMAGES)
    return records, images


def spool_folder(folder: str, url: str) -> Path:
    """Returns the local folder for files that are not uploaded yet.

    Args:
        folder: The configured folder; an empty string selects a temporary folder of this user.
        url: URL of the bucket. Each has a folder of its own.
    """
    name = hashlib.sha256(url.encode()).hexdigest()[:12]
    return Path(folder, name) if folder else Path(tempfile.gettempdir(), f"mlops-log-{_user()}-{name}")


def create_spool(folder: Path) -> None:
    """Creates the folder of `spool_folder`, which only this user can read.

    Raises:
        OSError: The folder cannot be created, or it belongs to another user, who could read it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lstat().st_uid != _user():
        raise PermissionError(f"The folder {folder} belongs to another user. Set MLOPS_LOG_SPOOL to a different one.")


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0  # Windows reports 0 as the owner of every file


def _closed(local: Path) -> dict[str, int]:
    """Returns the closed files with their sizes, segments first."""
    folder = Folder(local)
    segments = {name: size for name, size in folder.sizes(RECORDS).items() if name.endswith(CLOSED)}
    return segments | folder.sizes(IMAGES)
