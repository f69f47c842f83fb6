"""Finds the images that CSV files name, in the ways in which people and programs write paths."""

import posixpath
import re
import unicodedata
from collections import defaultdict
from functools import cached_property
from pathlib import Path

import pandas as pd

from src.mlops.data.raw_files import RawFiles
from src.mlops.errors import DataError

_ABSOLUTE = {r"[A-Za-z]:/|//": "an absolute Windows path", r"/": "an absolute Linux path"}


class ImagePaths:
    """The images below a raw folder.

    Args:
        files: The files of the folder.
    """

    def __init__(self, files: RawFiles) -> None:
        self._root = files.root.resolve().as_posix()
        self._exact = {unicodedata.normalize("NFC", path): path for path in files.images}

    def find(self, values: pd.Series, csv: Path) -> pd.Series:
        """Returns the paths of images relative to the root of the files, with `/`.

        A path can be relative to the root, or absolute on this or another machine if the end of it is a path below the
        root. File names without folders and without suffix are found where only one image has the name. A relative path
        to a missing file is returned unchanged.

        Args:
            values: Paths as in the CSV file, indexed by line number.
            csv: The file, for messages.

        Raises:
            DataError: A path is a URL, leaves the folder or is ambiguous, or an absolute path is not below the folder.
        """
        plain = values.map(lambda value: unicodedata.normalize("NFC", value.replace("\\", "/")))
        start = self._start_of_absolute(plain)
        return pd.Series(
            [
                self._exact.get(value) or self._find_one(path, start, f"line {line} of {csv}")
                for line, value, path in zip(values.index, values.tolist(), plain.tolist(), strict=True)
            ],
            index=values.index,
            dtype=str,
        )

    def _find_one(self, path: str, start: str, place: str) -> str:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
            raise DataError(f"{path!r} in {place} is a URL. Download the images, and list the paths of the files.")
        for pattern, kind in _ABSOLUTE.items():
            if re.match(pattern, path):
                if not start or not path.startswith(start):
                    raise DataError(
                        f"{path!r} in {place} is {kind}, and no image below {self._root} has the same end. Copy the "
                        "images there, or write paths relative to this folder."
                    )
                path = path.removeprefix(start)
                break
        path = posixpath.normpath(path)
        if path == ".." or path.startswith("../"):
            raise DataError(f"{path!r} in {place} is outside of {self._root}. Copy the images there.")
        if path in self._exact:
            return self._exact[path]
        name = path.rpartition("/")[2]
        ends = [
            image
            for image in self._by_name.get(name, ())
            if f"/{image}".endswith(f"/{path}") or f"/{image}".rpartition(".")[0].endswith(f"/{path}")
        ]
        if len(ends) > 1:
            raise DataError(
                f"{path!r} in {place} can be {ends[0]} or {ends[1]} in {self._root}. Write the complete path."
            )
        return self._exact[ends[0]] if ends else path

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """The images by their names, with and without the suffix."""
        found: dict[str, list[str]] = defaultdict(list)
        for path in self._exact:
            name = path.rpartition("/")[2]
            for key in {name, name.rpartition(".")[0]}:
                found[key].append(path)
        return found

    def _start_of_absolute(self, paths: pd.Series) -> str:
        """Returns what all absolute paths have before the part that is a path below the root, with `/` at the end."""
        absolute: list[str] = list(paths[paths.str.match("|".join(_ABSOLUTE))])
        if any(path.startswith(f"{self._root}/") for path in absolute):
            return f"{self._root}/"
        for path in absolute:
            parts = path.split("/")
            for count in range(1, len(parts)):
                end = "/".join(parts[count:])
                if end in self._exact:
                    return path.removesuffix(end)
        return ""
