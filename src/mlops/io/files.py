"""Writing files so that nothing is lost: all or nothing, and one process at a time."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes to a temporary name in the same folder, flushes to the disk, then renames.

    Raises:
        OSError: The file cannot be written; the former one is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # a temporary file is private, a model is for other users' services too
        temporary.replace(path)
    finally:
        if temporary:
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Makes a folder and keeps other processes that ask for it waiting; it is gone again if it ends empty."""
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("waiting for another process that prepares %s", folder)
            lock.acquire()
        yield
    finally:
        lock.release()
        with suppress(OSError):
            if created and {entry.name for entry in folder.iterdir()} <= {path.name}:
                path.unlink(missing_ok=True)
                folder.rmdir()
