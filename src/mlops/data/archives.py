"""Packs raw images into a few large archives, fetches archives and unpacks them.

Version control, buckets and downloads handle a few large files better than 50,000 small ones.
"""

import gzip
import json
import logging
import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from src.mlops.errors import DataError, MissingFileError, UnreachableError
from src.mlops.io.files import exclusive, to_json, write_atomically
from src.mlops.io.progress import progress_bar
from src.mlops.io.storage import open_storage

logger = logging.getLogger(__name__)
MOST_ARCHIVES = 10
LOOSE = "tables"  # the archive of files that are in no subfolder
WHOLE = "images"  # the only archive if there are too many subfolders
NOTE = "archives.json"
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
GROUND_TRUTH = "GT-final_test.csv"  # the benchmark has this file in a separate archive; it belongs in the folder GTSRB
# NotImplementedError: an unknown compression; ValueError: a name that cannot be decoded.
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError)
_WINDOWS = 0  # of `ZipInfo.create_system`
_SAME_TIME = (2011, 1, 1, 0, 0, 0)  # fixed, because the same files must always give the same bytes


def pack_archives(raw_dir: Path, target: Path) -> list[Path]:
    """Packs a folder of raw images into archives, one per subfolder.

    Args:
        raw_dir: The folder, in any layout.
        target: Folder of the archives. Archives with other names are removed from it.

    Returns:
        The paths of the archives. The same files give the same bytes.

    Raises:
        DataError: There is nothing to pack, or the archives cannot be written. Existing archives are unchanged.
    """
    groups = _groups(raw_dir)
    try:
        with exclusive(target), tempfile.TemporaryDirectory(dir=target, prefix=".work-") as work:
            with progress_bar("packing", sum(map(len, groups.values()))) as bar:
                for name, files in groups.items():
                    for _ in _write(Path(work, f"{name}.zip"), raw_dir, files):
                        bar.update()
            for old in target.glob("*.zip"):
                if old.stem not in groups:
                    old.unlink()
            archives = [Path(work, f"{name}.zip").replace(target / f"{name}.zip") for name in groups]
    except OSError as error:
        raise DataError(f"Cannot pack {raw_dir} into {target}: {error}.") from error
    return archives


def pack_folder(folder: Path, archive: Path) -> None:
    """Packs all files of a folder into one archive (.zip). The same files give the same bytes.

    Raises:
        DataError: A file cannot be read, or the archive cannot be written.
    """
    try:
        for _ in _write(archive, folder, sorted(path for path in folder.rglob("*") if path.is_file())):
            pass
    except OSError as error:
        raise DataError(f"Cannot pack {folder} into {archive}: {error}.") from error


def _write(archive: Path, folder: Path, files: Iterable[Path]) -> Iterator[Path]:
    """Writes files into a new archive, and yields each of them when it is written."""
    with zipfile.ZipFile(archive, "w") as target:
        for file in files:
            target.writestr(zipfile.ZipInfo(file.relative_to(folder).as_posix(), _SAME_TIME), file.read_bytes())
            yield file


def unpack_archives(folder: Path) -> Path:
    """Unpacks the archives of a folder, unless they are already unpacked and unchanged.

    Returns:
        The folder of the images, next to the folder of the archives.

    Raises:
        DataError: There is no archive, or an archive is corrupted.
    """
    archives = sorted(path for path in folder.glob("*.zip") if not path.name.startswith("."))
    if not archives:
        raise DataError(
            f"No archives (.zip) in {folder}. Fetch them with `inv data.pull`, or pack a folder of images with "
            "`inv data.pack --raw-dir FOLDER`."
        )
    return _unpack(archives, folder.with_name(f"{folder.name}_unpacked"))


def unpack_archive(path: Path) -> Path:
    """Unpacks one archive (`SUFFIXES`) into a folder next to it, unless it is already unpacked and unchanged.

    Returns:
        The folder, named like the archive: `signs_unpacked` for `signs.zip`.

    Raises:
        DataError: The file is not an archive or is corrupted, the folder cannot be written, or its name is taken.
    """
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise DataError(f"{path} is neither a folder nor an archive with one of the suffixes {', '.join(SUFFIXES)}.")
    return _unpack([path], path.with_name(f"{path.name[: -len(suffix)]}_unpacked"))


def _unpack(archives: list[Path], target: Path) -> Path:
    """Replaces the content of a folder by that of archives if they have changed."""
    note = target / NOTE
    if target.is_dir() and any(target.iterdir()) and not (note.is_file() or (target / ".lock").is_file()):
        raise DataError(
            f"Cannot unpack {archives[0]}: the folder {target} already exists and contains other files. Set "
            "data.raw_dir to this folder, or rename it."
        )
    try:
        facts = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in archives}
        with exclusive(target):
            if _read_note(note) != facts:
                for leftover in target.glob(".work-*"):  # from processes that were killed
                    shutil.rmtree(leftover)
                with tempfile.TemporaryDirectory(dir=target, prefix=".work-") as work:
                    extract(archives, Path(work))
                    _replace(target, Path(work))
                write_atomically(note, to_json(facts).encode())
    except OSError as error:
        raise DataError(f"Cannot unpack {archives[0]} into {target}: {error}.") from error
    return target


def _replace(target: Path, work: Path) -> None:
    """Moves the files in `work` to `target`, which must not contain any others. Without a note, they are incomplete."""
    (target / NOTE).unlink(missing_ok=True)
    kept = {work.name, ".lock"}
    for old in [entry for entry in target.iterdir() if entry.name not in kept]:
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for entry in [entry for entry in work.iterdir() if entry.name not in {NOTE, *kept}]:
        entry.rename(target / entry.name)


def extract(archives: Iterable[Path], into: Path) -> None:
    """Unpacks archives (.zip, .tar, .tar.gz, .tgz) into one folder.

    Raises:
        DataError: An archive is corrupted or encrypted, or contains a file that belongs outside the folder.
    """
    for path in archives:
        logger.info("Unpacking %s", path.name)
        try:
            if path.suffix.lower() == ".zip":
                with zipfile.ZipFile(path) as archive:
                    _require_plain(archive, path)
                    for entry in archive.infolist():
                        if entry.create_system == _WINDOWS:  # older .NET writes its own separator
                            entry.filename = entry.filename.replace("\\", "/")
                        archive.extract(entry, into)
            else:
                _extract_tar(path, into)
        except (*_DAMAGED, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # others are from gzip and bz2, for corrupted bytes
                raise DataError(f"Cannot unpack {path} into {into}: {error}.") from error
            raise DataError(f"Cannot unpack {path}: {error}. Fetch or pack it again.") from error
    ground_truth = into / GROUND_TRUTH
    if ground_truth.is_file() and (into / "GTSRB").is_dir():
        ground_truth.rename(into / "GTSRB" / GROUND_TRUTH)


def _extract_tar(path: Path, into: Path) -> None:
    opener = open if path.suffix.lower() == ".tar" else gzip.open
    with opener(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
        archive.extractall(into, filter="data")
        # tarfile takes a damaged header for the end of the archive, and gzip has its checksum behind the last byte.
        while block := file.read(1 << 20):
            if block.strip(b"\0"):
                raise tarfile.ReadError("it is damaged between two files")


def _require_plain(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuses what `extractall` would write under another name, or fails at after the first files."""
    for entry in archive.infolist():
        name = PureWindowsPath(entry.filename)  # knows both kinds of slashes, and drives
        if name.anchor or ".." in name.parts:
            raise DataError(f"Cannot unpack {path}: its file {entry.filename!r} belongs outside the archive's folder.")
        if entry.flag_bits & 1:
            raise DataError(f"Cannot unpack {path}: it is encrypted. Pack it again without a password.")


def fetch_archives(url: str, raw_dir: Path) -> Path:
    """Fetches the new and changed archives from a bucket.

    Args:
        url: URL of the folder of the archives, `gs://…`.
        raw_dir: Folder to write them to. Archives that are no longer in the bucket are removed from it.

    Returns:
        `raw_dir`.

    Raises:
        DataError: The bucket contains no archives.
        StorageError: The bucket cannot be reached and archives are missing locally, or a download is corrupted.
            Existing archives are unchanged.
    """
    storage = open_storage(url)
    note = raw_dir / NOTE
    with exclusive(raw_dir):
        known: dict[str, str] = _read_note(note)
        try:
            wanted = {name: storage.state(name) for name in storage.names() if name.endswith(".zip")}
        except UnreachableError as error:
            if not known or not all((raw_dir / name).is_file() for name in known):
                raise
            logger.warning("Using the archives in %s that were fetched earlier: %s", raw_dir, error)
            return raw_dir
        except MissingFileError as error:
            raise DataError(f"No archives (.zip) at {url}: {error}") from error
        if not wanted:
            raise DataError(f"No archives (.zip) at {url}. Upload them with `inv data.push --remote storage`.")
        for name, state in wanted.items():
            if known.get(name) != state or not (raw_dir / name).is_file():
                logger.info("Fetching %s/%s", url, name)
                storage.download(name, raw_dir / name)
                known[name] = state
                write_atomically(note, to_json(known).encode())
        for name in known.keys() - wanted.keys():
            (raw_dir / name).unlink(missing_ok=True)
        write_atomically(note, to_json(wanted).encode())
    return raw_dir


def _groups(raw_dir: Path) -> dict[str, list[Path]]:
    """Returns the files of each archive, by the name of the archive."""
    if not raw_dir.is_dir():
        raise DataError(f"Cannot pack {raw_dir}: the folder does not exist.")
    files = sorted(path for path in raw_dir.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise DataError(f"Cannot pack {raw_dir}: the folder contains no files.")
    groups: dict[str, list[Path]] = {}
    for path in files:
        parts = path.relative_to(raw_dir).parts
        groups.setdefault(parts[0] if len(parts) > 1 else LOOSE, []).append(path)
    return groups if len(groups) <= MOST_ARCHIVES else {WHOLE: files}


def _read_note(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}
