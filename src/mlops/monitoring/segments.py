"""The files of the prediction log: segments of gzip-compressed JSON Lines.

`records/date=2026-11-30/20261130T094512.123456Z-4f0c…-000000.jsonl.gz` is a closed segment: one gzip member, which
never changes except to erase records. While a process writes it, it has the suffix `.part`, which readers ignore. The
process holds a lock meanwhile. The operating system releases the lock when the process ends for whatever reason, so
another process can tell a segment in use from one that a killed process left behind.
"""

import gzip
import logging
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from src.mlops.io.files import write_atomically

logger = logging.getLogger(__name__)
RECORDS, IMAGES, LABELS, CLOSED, OPEN = "records", "images", "labels", ".jsonl.gz", ".part"
TRUNCATED = "its end is missing"
MAX_TEXT = 512 * 1024 * 1024  # bytes of a segment without compression; the log writes segments of less than 50 MB
# Without a search for repetitions, which takes three times as long for 20 % less: embeddings have none.
_STRATEGY = zlib.Z_HUFFMAN_ONLY
_GZIP = 16 + zlib.MAX_WBITS
_BLOCK = 64 * 1024  # bytes to decompress at a time; 64 MB without compression at most
_LOCKS = ".locks"
_LEFTOVER_SECONDS = 600.0  # since the last write; no process needs this long to complete a file


class Segment:
    """A segment that this process writes.

    Args:
        folder: The local folder of the log.
        writer: ID of this process.
        number: Number of this segment in this process.

    Attributes:
        pending: Number of records since the last flush. They are lost if the process is killed.
        size: Bytes in the file, which can be fewer than were appended since the last flush.

    Raises:
        OSError: The file cannot be created.
    """

    def __init__(self, folder: Path, writer: str, number: int) -> None:
        now = datetime.now(UTC)
        self.pending = self.size = self._safe = 0
        self._path = (
            folder / RECORDS / f"date={now:%Y-%m-%d}" / f"{now:%Y%m%dT%H%M%S.%fZ}-{writer}-{number:06d}{CLOSED}"
        )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._open = self._path.with_name(self._path.name + OPEN)
        self._file = self._open.open("xb", buffering=0)
        self._compressor = zlib.compressobj(1, zlib.DEFLATED, _GZIP, zlib.DEF_MEM_LEVEL, _STRATEGY)
        self._flushed = self._compressor.copy()  # the state after the last flush

    def append(self, lines: bytes, records: int) -> None:
        """Adds records. They can remain in memory until the next flush."""
        self.pending += records
        self._write(self._compressor.compress(lines))

    def flush(self) -> int:
        """Passes all records to the operating system, so that they survive the end of this process.

        Returns:
            The number of records that this flush made safe.
        """
        self._write(self._compressor.flush(zlib.Z_SYNC_FLUSH))
        self._safe = self.size
        self._flushed = self._compressor.copy()
        safe, self.pending = self.pending, 0
        return safe

    def close(self) -> Path:
        """Completes the file and gives it its final name. Call `flush` first.

        Returns:
            The path of the closed segment.
        """
        self._write(self._flushed.copy().flush(zlib.Z_FINISH))
        os.fsync(self._file.fileno())
        self._file.close()
        return self._open.rename(self._path)

    def abandon(self) -> Path | None:
        """Closes the file after an error, without the records since the last flush.

        Returns:
            The file if even its end cannot be written; `repair` can close it later. None if the segment is closed.
        """
        try:
            self._file.truncate(self._safe)  # needs no space on the disk
            self._file.seek(self._safe)
            self.close()
        except OSError:
            with suppress(OSError):
                self._file.close()
            return self._open
        return None

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        while view:  # an unbuffered file can write a part
            written = self._file.write(view)
            self.size += written
            view = view[written:]


def read_lines(content: bytes) -> tuple[list[bytes], str | None]:
    """Decompresses the bytes of a segment.

    Returns:
        The complete lines up to the first damaged byte, and what is wrong with the segment: `TRUNCATED`, another
        reason, or None. Only the lines of a truncated segment are known to be intact.
    """
    decompressor, text, fault = zlib.decompressobj(_GZIP), bytearray(), None
    for start in range(0, len(content), _BLOCK):
        try:
            text += decompressor.decompress(content[start : start + _BLOCK])
        except zlib.error as error:
            fault = f"it is corrupted ({error})"
            break
        if len(text) > MAX_TEXT:
            fault = f"it has more than {MAX_TEXT:,} bytes of text"
            break
        if decompressor.unused_data:
            fault = "more data follows its end"
            break
    if fault is None and not decompressor.eof:
        fault = TRUNCATED
    return bytes(text).split(b"\n")[:-1], fault


def pack_lines(lines: list[bytes]) -> bytes:
    """Returns a complete segment with these lines."""
    return gzip.compress(b"".join(line + b"\n" for line in lines))


@contextmanager
def hold_lock(folder: Path, writer: str) -> Iterator[None]:
    """Marks the segments of a writer as in use.

    Raises:
        OSError: The file system is not writable, or does not support locks.
        Timeout: Another process uses them.
    """
    path = folder / _LOCKS / f"{writer}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except NotImplementedError as error:
        raise OSError(str(error)) from error
    try:
        yield
        # No other process can need it: IDs are never used twice, and `recover` looks for the segment again.
        with suppress(OSError):
            path.unlink()
    finally:
        lock.release()


def recover(folder: Path) -> None:
    """Closes the segments that killed processes left behind, and deletes their temporary files.

    Other processes can do the same at the same time.

    Args:
        folder: The local folder of the log.

    Raises:
        OSError: A segment cannot be read or written.
    """
    for path in sorted((folder / RECORDS).glob(f"*/*-*-*{CLOSED}{OPEN}")):
        with suppress(Timeout), hold_lock(folder, path.name.split("-")[1]):
            repair(path)
    remove_leftovers(folder)


def remove_leftovers(folder: Path) -> int:
    """Deletes the hidden temporary files of killed processes. All readers ignore them, but they have their content.

    Args:
        folder: The folder of the log.

    Returns:
        The number of temporary files that are left, because a process may still write them or they cannot be deleted.
    """
    left = 0
    for path in [path for kind in (RECORDS, IMAGES, LABELS) for path in (folder / kind).glob("*/.*")]:
        try:
            if time.time() - path.stat().st_mtime < _LEFTOVER_SECONDS:
                left += 1
            else:
                path.unlink()
                logger.warning("Deleted %s, a temporary file that a killed process left behind", path)
        except FileNotFoundError:  # completed or deleted meanwhile
            continue
        except OSError as error:
            logger.warning("Cannot delete the temporary file %s: %s", path, error.strerror)
            left += 1
    return left


def repair(path: Path) -> None:
    """Closes a segment that its process left open. Keeps the complete lines, and drops the one that is cut off.

    Raises:
        OSError: The segment cannot be read or written.
    """
    try:
        lines, _ = read_lines(path.read_bytes())
    except FileNotFoundError:
        return  # another process was faster
    if lines:
        write_atomically(path.with_name(path.name.removesuffix(OPEN)), pack_lines(lines))
    path.unlink()
    logger.warning("Recovered %d records from %s, which its process had not closed", len(lines), path)
