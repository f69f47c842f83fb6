"""Finds the images in files, folders, globs and URLs, and reads them."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec

from src.mlops.errors import DataError, ImageError
from src.mlops.io.files import find_files, is_special, warn_about_special
from src.mlops.preprocessing import image_suffixes


@dataclass(frozen=True)
class Images:
    """The paths of the images in the inputs. They are listed by the process that iterates over them.

    Attributes:
        inputs: As for `find_images`.
        skip: Number of images to leave out at the start.
    """

    inputs: Sequence[str]
    skip: int = 0

    def __iter__(self) -> Iterator[str]:
        return islice(find_images(self.inputs, warn=False), self.skip, None)


def find_images(inputs: Sequence[str], warn: bool = True) -> Iterator[str]:
    """Yields the paths of all images in the inputs, always in the same order.

    Named pipes, sockets and devices in folders and globs are ignored.

    Args:
        inputs: Files, folders, globs, or URLs that fsspec reads.
        warn: Whether to log a warning about ignored files at the end.

    Raises:
        DataError: An input does not exist, cannot be listed, or is a named pipe, a socket or a device; or the inputs
            contain no image.
    """
    found = False
    special: list[str] = []
    for path in _each(inputs, special):
        found = True
        yield path
    if warn:
        warn_about_special(special)
    if not found:
        raise DataError(f"No images in {', '.join(inputs) or 'the inputs'}.")


def read_image(path: str) -> bytes | str:
    """Returns the bytes of a URL. Returns the path of a local file unchanged.

    Raises:
        ImageError: The URL cannot be read.
    """
    if "://" not in path:
        return path
    try:
        with fsspec.open(path, "rb") as file:
            content: bytes = file.read()
    except Exception as error:  # each file system raises its own exceptions
        raise ImageError(f"The image cannot be read ({type(error).__name__}: {error})") from error
    return content


def _each(inputs: Sequence[str], special: list[str]) -> Iterator[str]:
    suffixes = image_suffixes()
    for name in inputs:
        if "://" in name:
            yield from _find_remote(name, suffixes, special)
        elif is_special(name):
            raise DataError(f"{name} is a named pipe, a socket or a device. Save the image to a file first.")
        elif os.path.lexists(name):
            yield from _below(Path(name), suffixes, special)
        elif matches := sorted(glob.glob(name, recursive=True)):  # noqa: PTH207 - a pattern may be absolute
            if "**" in name:  # the pattern already matches the files in subfolders
                matches = [match for match in matches if match.lower().endswith(suffixes)]
                special += filter(is_special, matches)
                yield from (match for match in matches if not is_special(match))
            else:
                for match in matches:
                    yield from _below(Path(match), suffixes, special)
        else:
            raise DataError(f"No file or folder matches {Path(name).absolute()}.")


def _below(path: Path, suffixes: tuple[str, ...], special: list[str]) -> Iterator[str]:
    if path.is_dir():
        yield from find_files(path, suffixes, special, _refuse_folder)
    elif is_special(path):
        special.append(str(path))
    else:
        yield str(path)


def _refuse_folder(error: OSError) -> None:
    raise DataError(f"Cannot read the folder {error.filename}: {error.strerror}.") from error


def _find_remote(url: str, suffixes: tuple[str, ...], special: list[str]) -> Iterator[str]:
    try:
        filesystem, path = fsspec.url_to_fs(url)
        if filesystem.isfile(path):
            files = [path]
        elif glob.has_magic(path) and not filesystem.isdir(path):
            matches = filesystem.glob(path, detail=True)
            files = []
            for match in _ordinary(matches, special):
                if matches[match]["type"] != "directory":
                    files.append(match)
                elif "**" not in path:  # with **, the pattern already matches the files in subfolders
                    files += _find_below(filesystem, match, suffixes, special)
            if "**" in path:
                files = [file for file in files if file.lower().endswith(suffixes)]
        else:
            files = _find_below(filesystem, path, suffixes, special)
    except Exception as error:  # each file system raises its own exceptions for a missing bucket or permission
        raise DataError(
            f"Cannot read {url}: {type(error).__name__}: {error}. Check the URL and your access to it. URLs that start "
            "with gs:// or s3:// need `uv sync --group buckets`."
        ) from error
    if not files:
        raise DataError(f"No images at {url}.")
    yield from map(filesystem.unstrip_protocol, files)


def _find_below(filesystem: Any, path: str, suffixes: tuple[str, ...], special: list[str]) -> list[str]:
    found = filesystem.find(path, detail=True)
    return _ordinary({name: found[name] for name in found if name.lower().endswith(suffixes)}, special)


def _ordinary(found: dict[str, dict[str, Any]], special: list[str]) -> list[str]:
    """Returns the sorted names of what fsspec found. Its type `other` are named pipes, sockets and devices."""
    special += sorted(name for name in found if found[name]["type"] == "other" and is_special(name))
    return sorted(found.keys() - set(special))
