"""Finds the images in files, folders, globs and URLs, and reads them."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import fsspec
from PIL import Image

from src.mlops.errors import DataError, ImageError


def find_images(inputs: Sequence[str]) -> Iterator[str]:
    """Yields the paths of all images in the inputs, always in the same order.

    Args:
        inputs: Files, folders, globs, or URLs that fsspec reads.

    Raises:
        DataError: An input does not exist or cannot be listed, or the inputs contain no image.
    """
    found = False
    for path in _each(inputs):
        found = True
        yield path
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


def _each(inputs: Sequence[str]) -> Iterator[str]:
    suffixes = tuple(Image.registered_extensions())
    for name in inputs:
        if "://" in name:
            yield from _find_remote(name, suffixes)
        elif os.path.lexists(name):
            yield from _below(Path(name), suffixes)
        elif matches := sorted(glob.glob(name, recursive=True)):  # noqa: PTH207 - a pattern may be absolute
            if "**" in name:  # the pattern already matches the files in subfolders
                yield from (match for match in matches if match.lower().endswith(suffixes))
            else:
                for match in matches:
                    yield from _below(Path(match), suffixes)
        else:
            raise DataError(f"No file or folder matches {Path(name).absolute()}.")


def _below(path: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    if not path.is_dir():
        yield str(path)
        return
    for folder, folders, files in os.walk(path, onerror=_refuse_folder):
        folders.sort()
        yield from (str(Path(folder, file)) for file in sorted(files) if file.lower().endswith(suffixes))


def _refuse_folder(error: OSError) -> None:
    raise DataError(f"Cannot read the folder {error.filename}: {error.strerror}.") from error


def _find_remote(url: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    try:
        filesystem, path = fsspec.url_to_fs(url)
        if filesystem.isfile(path):
            files = [path]
        elif glob.has_magic(path):
            files = sorted(filesystem.glob(path))
        else:
            files = sorted(file for file in filesystem.find(path) if file.lower().endswith(suffixes))
    except Exception as error:  # each file system raises its own exceptions for a missing bucket or permission
        raise DataError(
            f"Cannot read {url}: {type(error).__name__}: {error}. Check the URL and your access to it. URLs that start "
            "with gs:// or s3:// need `uv sync --group buckets`."
        ) from error
    if not files:
        raise DataError(f"No images at {url}.")
    yield from map(filesystem.unstrip_protocol, files)
