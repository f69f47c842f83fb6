"""Lists the files of a raw folder once, without what operating systems and programs leave in folders."""

import os
from pathlib import Path
from typing import NamedTuple, Self

from src.mlops.data.archives import NOTE
from src.mlops.data.packing import MANIFEST
from src.mlops.errors import DataError
from src.mlops.io.files import warn_about_special
from src.mlops.preprocessing import image_suffixes

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Names of folders, CSV files and values of the column `split`, in lower case, and the split that they mean."""

_TABLES = {".csv", ".tsv"}
EXPLAINED = "_explained.png"  # end of the name of a saliency map, next to its image
_OWN = {NOTE, ".lock"}  # files that this project writes to raw folders, besides saliency maps
_SYSTEM = {  # in lower case; names that start with a dot are skipped anyway
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "$recycle.bin", "system volume information",
    "lost+found", "@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "__pycache__",
}  # fmt: skip


class RawFiles(NamedTuple):
    """The files below a folder. All paths are relative to it, with `/`, and sorted.

    Attributes:
        root: The folder.
        images: Images, recognised by their suffix.
        tables: CSV files.
        folders: Subfolders.
        hidden: Hidden files and folders, and those of operating systems. They are not read.
        others: All other files. They are not read.
    """

    root: Path
    images: list[str]
    tables: list[str]
    folders: list[str]
    hidden: list[str]
    others: list[str]

    def below(self, folder: str) -> Self:
        """Returns the files below a subfolder, relative to it."""
        start = f"{folder}/"
        lists = ([path[len(start) :] for path in paths if path.startswith(start)] for paths in self[1:])
        return type(self)(self.root / folder, *lists)

    @property
    def top_folders(self) -> list[str]:
        """Returns the names of the folders directly in the root."""
        return [folder for folder in self.folders if "/" not in folder]

    @property
    def top_tables(self) -> list[str]:
        """Returns the names of the CSV files directly in the root."""
        return [table for table in self.tables if "/" not in table]


def list_files(root: Path, skip: Path | None = None) -> RawFiles:
    """Lists the files below a folder. Links are followed. Folders with prepared data are left out.

    Args:
        root: The folder.
        skip: A folder to leave out, such as the one for the prepared data.

    Raises:
        DataError: A folder cannot be listed, or the name of a folder or image is not valid UTF-8.
    """
    found = RawFiles(root, [], [], [], [], [])
    suffixes = frozenset(image_suffixes())
    special: list[str] = []

    def walk(directory: str, prefix: str, closed: frozenset[tuple[int, int]]) -> None:
        """Lists one folder, but does not enter the folders in `closed`, which include those that it is in."""
        with os.scandir(directory) as entries:
            listed = list(entries)
        maps = _saliency_maps([entry.name for entry in listed])
        if prefix and any(entry.name == MANIFEST for entry in listed):
            return
        if prefix:
            found.folders.append(prefix[:-1])
        for entry in listed:
            path = prefix + entry.name
            suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - 45,000 Path objects would take a second
            if path in _OWN or entry.name in maps:
                continue
            if _is_hidden(entry.name):
                found.hidden.append(path)
            elif entry.is_dir():
                place = _identity(entry.path)
                if place not in closed:
                    walk(entry.path, f"{path}/", closed | {place})
            elif suffix not in suffixes and suffix not in _TABLES:
                found.others.append(path)
            elif entry.is_file() or entry.is_symlink():  # a link to nothing is reported like a missing file
                (found.images if suffix in suffixes else found.tables).append(path)
            else:
                special.append(entry.path)

    try:
        walk(str(root), "", frozenset(_identity(folder) for folder in (root, skip) if folder and folder.is_dir()))
    except OSError as error:
        raise DataError(f"Cannot list {error.filename or root}: {error.strerror}.") from error
    for path in (*found.folders, *found.images):
        if not path.isascii() and any("\ud800" <= letter <= "\udfff" for letter in path):
            raise DataError(f"The name {path!r} in {root} is not valid UTF-8. Rename the file or folder.")
    warn_about_special(sorted(special))
    for paths in (found.images, found.tables, found.folders, found.hidden, found.others):
        paths.sort()
    return found


def _saliency_maps(names: list[str]) -> set[str]:
    """Returns the names of the saliency maps that `inv explain` wrote next to their images."""
    maps = {name for name in names if name.endswith(EXPLAINED)}
    stems = {name.rpartition(".")[0] for name in names} if maps else set()
    return {name for name in maps if name.removesuffix(EXPLAINED) in stems}


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 - half the time of Path.stat
    return status.st_dev, status.st_ino


def _is_hidden(name: str) -> bool:
    folded = name.lower()
    return folded.startswith((".", "~$")) or folded in _SYSTEM or folded.endswith(":zone.identifier")
