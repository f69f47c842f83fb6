"""Atomic writes, JSON that every parser accepts, checksums and lists of files, and locks for folders."""

import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
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


def to_json(
    value: object,
    *,
    indent: int | None = None,
    ensure_ascii: bool = True,
    separators: tuple[str, str] | None = None,
) -> str:
    """Returns plain values as JSON. All JSON of this project is written with this function.

    `json.dumps` writes NaN and infinity as bare words, which JSON does not have (RFC 8259) and other parsers reject.

    Args:
        value: Nested plain values.
        indent: Spaces per level; None writes one line.
        ensure_ascii: Whether to escape all characters that are not ASCII.
        separators: Separators of items and of keys, as for `json.dumps`.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    return json.dumps(  # noqa: TID251
        value, allow_nan=False, indent=indent, ensure_ascii=ensure_ascii, separators=separators
    )


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5(path: Path) -> str:
    """Returns the MD5 of a file as hex digits. DVC and the authors of GTSRB identify files by it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def same_place(first: Path, second: Path) -> bool:
    """Returns whether two paths are the same file or folder, also through links and on disks that ignore case."""
    try:
        return first.samefile(second)
    except OSError:  # at least one does not exist yet
        return first.resolve() == second.resolve()


def is_special(path: str | Path) -> bool:
    """Returns whether a path, after following links, is a named pipe, a socket or a device.

    Reading such a file can block forever. A link to nothing is not special: opening it fails immediately.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - half the time of Path.stat
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def find_files(
    folder: Path, suffixes: tuple[str, ...], special: list[str], onerror: Callable[[OSError], None] | None = None
) -> Iterator[str]:
    """Yields the paths of the files below a folder in a fixed order: by name, the files before the subfolders.

    Args:
        folder: The folder.
        suffixes: Lower-case suffixes of the files to find; the case in file names does not matter.
        special: The paths of named pipes, sockets and devices are appended to this list instead.
        onerror: Called if a folder cannot be listed; None: such folders are ignored.
    """
    for directory, folders, names in os.walk(folder, onerror=onerror):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(suffixes):
                path = os.path.join(directory, name)  # noqa: PTH118 - 45,000 Path objects would take a second
                if is_special(path):
                    special.append(path)
                else:
                    yield path


def warn_about_special(special: list[str]) -> None:
    """Logs one warning about the files that `find_files` did not yield."""
    if special:
        logger.warning(
            "Ignored %d named pipes, sockets or devices among the images, for example %s", len(special), special[0]
        )


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Creates a folder and locks it; other processes wait for the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")  # never deleted: another process could already wait for it
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Waiting for another process that prepares %s", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
