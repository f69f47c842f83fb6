"""Atomic writes, checksums of files, and locks for folders."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a temporary file in the same folder, flushes it to disk, and renames it.

    Raises:
        OSError: The file cannot be written. An existing file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # temporary files are private, but services of other users must be able to read models
        temporary.replace(path)
    finally:
        if temporary:
            with suppress(OSError):
                temporary.unlink()


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5(path: Path) -> str:
    """Returns the MD5 of a file as hex digits. DVC and the authors of GTSRB identify files by it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Creates a folder and locks it; other processes wait for the lock.

    A folder that is new and still empty at the end is removed.
    """
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("Waiting for another process that prepares %s", folder)
            lock.acquire()
        yield
    finally:
        lock.release()
        with suppress(OSError):
            if created and {entry.name for entry in folder.iterdir()} <= {path.name}:
                path.unlink(missing_ok=True)
                folder.rmdir()
