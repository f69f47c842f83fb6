"""Raw pictures as a few large archives: what versions, buckets and downloads handle well, unlike 50,000 files."""

import json
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from src.mlops.errors import DataError, MissingFileError, UnreachableError
from src.mlops.files import exclusive, write_atomically
from src.mlops.progress import ProgressBar
from src.mlops.storage import open_storage

logger = logging.getLogger(__name__)
MOST_ARCHIVES = 10
LOOSE = "tables"  # the archive of the files that lie in no folder
WHOLE = "images"  # the archive of everything, where there are too many folders
NOTE = "archives.json"
GROUND_TRUTH = "GT-final_test.csv"  # the benchmark has an archive for this file alone; it belongs into the folder GTSRB
_SAME_TIME = (2011, 1, 1, 0, 0, 0)  # the same files give the same bytes, whenever they are packed


def pack_archives(raw_dir: Path, target: Path) -> list[Path]:
    """Writes a folder of raw images as archives, one for each folder in it.

    Args:
        raw_dir: The folder, in any layout.
        target: Folder of the archives; its archives of other names are removed.

    Returns:
        The archives. The same files give the same bytes.

    Raises:
        DataError: There is nothing to pack, or the archives cannot be written. Those of before are as they were.
    """
    groups = _groups(raw_dir)
    try:
        with exclusive(target), tempfile.TemporaryDirectory(dir=target, prefix=".work-") as work:
            with ProgressBar("packing", sum(map(len, groups.values()))) as bar:
                done = 0
                for name, files in groups.items():
                    with zipfile.ZipFile(Path(work, f"{name}.zip"), "w") as archive:
                        for file in files:
                            entry = zipfile.ZipInfo(file.relative_to(raw_dir).as_posix(), _SAME_TIME)
                            archive.writestr(entry, file.read_bytes())
                            done += 1
                            bar.show(done)
            for old in target.glob("*.zip"):
                if old.stem not in groups:
                    old.unlink()
            archives = [Path(work, f"{name}.zip").replace(target / f"{name}.zip") for name in groups]
    except OSError as error:
        raise DataError(f"expected to pack {raw_dir} into {target}, found: {error}.") from error
    return archives


def unpack_archives(folder: Path) -> Path:
    """Unpacks the archives of a folder, unless that was done before and they are still the same.

    Returns:
        The folder of the images, beside that of the archives.

    Raises:
        DataError: There is no archive, or one is damaged.
    """
    archives = sorted(folder.glob("*.zip"))
    if not archives:
        raise DataError(
            f"expected archives (.zip) in {folder}, found none. Fetch them: `inv data-pull`; or make them "
            "of a folder of images: `inv data-pack --raw-dir FOLDER`."
        )
    target = folder.with_name(f"{folder.name}_unpacked")
    note = target / NOTE
    facts = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in archives}
    try:
        with exclusive(folder.parent):
            if not (note.is_file() and json.loads(note.read_text()) == facts):
                with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as work:
                    extract(archives, Path(work))
                    shutil.rmtree(target, ignore_errors=True)
                    target.mkdir()
                    for entry in list(Path(work).iterdir()):
                        entry.rename(target / entry.name)
                write_atomically(note, json.dumps(facts).encode())
    except (OSError, ValueError) as error:
        raise DataError(f"expected to unpack {folder} into {target}, found: {error}.") from error
    return target


def extract(archives: Iterable[Path], into: Path) -> None:
    """Unpacks archives into one folder.

    Raises:
        DataError: One is damaged.
    """
    for path in archives:
        logger.info("unpacking %s", path.name)
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(into)
        except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
            raise DataError(f"expected an archive at {path}, found: {error}. Fetch or pack it again.") from error
    ground_truth = into / GROUND_TRUTH
    if ground_truth.is_file() and (into / "GTSRB").is_dir():
        ground_truth.rename(into / "GTSRB" / GROUND_TRUTH)


def fetch_archives(url: str, raw_dir: Path) -> Path:
    """Fetches archives from a bucket; those that are here and did not change stay.

    Args:
        url: Folder of the archives, `gs://…`.
        raw_dir: Where they go. What is no longer in the bucket is removed.

    Returns:
        `raw_dir`.

    Raises:
        DataError: There is no archive in the bucket.
        StorageError: The bucket cannot be reached and not all is here, or what arrives is damaged; what was here is as
            it was.
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
            logger.warning("using the archives in %s that were fetched before: %s", raw_dir, error)
            return raw_dir
        except MissingFileError as error:
            raise DataError(f"expected archives (.zip) at {url}, found: {error}") from error
        if not wanted:
            raise DataError(f"expected archives (.zip) at {url}, found none. Send them there: `inv data-push`.")
        for name, state in wanted.items():
            if known.get(name) != state or not (raw_dir / name).is_file():
                logger.info("fetching %s/%s", url, name)
                storage.download(name, raw_dir / name)
                known[name] = state
                write_atomically(note, json.dumps(known).encode())
        for name in known.keys() - wanted.keys():
            (raw_dir / name).unlink(missing_ok=True)
        write_atomically(note, json.dumps(wanted).encode())
    return raw_dir


def _groups(raw_dir: Path) -> dict[str, list[Path]]:
    """Divides the files of a folder among archives, by name."""
    if not raw_dir.is_dir():
        raise DataError(f"expected a folder of images to pack at {raw_dir}, found none.")
    files = sorted(path for path in raw_dir.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise DataError(f"expected images to pack in {raw_dir}, found no file.")
    groups: dict[str, list[Path]] = {}
    for path in files:
        parts = path.relative_to(raw_dir).parts
        groups.setdefault(parts[0] if len(parts) > 1 else LOOSE, []).append(path)
    return groups if len(groups) <= MOST_ARCHIVES else {WHOLE: files}


def _read_note(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}
