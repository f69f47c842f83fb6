"""Files, folders, globs and URLs → the paths of pictures, and their bytes."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import fsspec
from PIL import Image

from src.mlops.errors import DataError, ImageError


def find_images(inputs: Sequence[str]) -> Iterator[str]:
    """Yields the pictures of files, folders, globs and URLs that fsspec reads, always in the same order.

    Raises:
        DataError: An input does not exist or cannot be listed, or there is no picture at all.
    """
    found = False
    for path in _each(inputs):
        found = True
        yield path
    if not found:
        raise DataError(f"expected pictures in {', '.join(inputs) or 'the inputs'}, found none.")


def read_picture(path: str) -> bytes | str:
    """Returns what a picture is decoded from: a URL's bytes, or a file's path as it is.

    Raises:
        ImageError: The URL cannot be read.
    """
    if "://" not in path:
        return path
    try:
        with fsspec.open(path, "rb") as file:
            content: bytes = file.read()
    except Exception as error:  # each file system has errors of its own
        raise ImageError(f"expected to read it, found: {type(error).__name__}: {error}") from error
    return content


def _each(inputs: Sequence[str]) -> Iterator[str]:
    suffixes = tuple(Image.registered_extensions())
    for name in inputs:
        if "://" in name:
            yield from _find_remote(name, suffixes)
        elif os.path.lexists(name):
            yield from _below(Path(name), suffixes)
        elif matches := sorted(glob.glob(name, recursive=True)):  # noqa: PTH207 - a pattern may be absolute
            if "**" in name:  # it names what is below a folder by itself
                yield from (match for match in matches if match.lower().endswith(suffixes))
            else:
                for match in matches:
                    yield from _below(Path(match), suffixes)
        else:
            raise DataError(f"expected a file, a folder, a glob or a URL, found nothing at {Path(name).absolute()}.")


def _below(path: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    if not path.is_dir():
        yield str(path)
        return
    for folder, folders, files in os.walk(path, onerror=_refuse_folder):
        folders.sort()
        yield from (str(Path(folder, file)) for file in sorted(files) if file.lower().endswith(suffixes))


def _refuse_folder(error: OSError) -> None:
    raise DataError(f"expected to read the folder {error.filename}, found: {error.strerror}.") from error


def _find_remote(url: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    try:
        filesystem, path = fsspec.url_to_fs(url)
        if filesystem.isfile(path):
            files = [path]
        elif glob.has_magic(path):
            files = sorted(filesystem.glob(path))
        else:
            files = sorted(file for file in filesystem.find(path) if file.lower().endswith(suffixes))
    except Exception as error:  # each file system has its own errors for "no such bucket" and "no permission"
        raise DataError(
            f"expected to read {url}, found: {type(error).__name__}: {error}. Check the address and your access to it; "
            "gs:// and s3:// need `uv sync --group buckets`."
        ) from error
    if not files:
        raise DataError(f"expected pictures at {url}, found none.")
    yield from map(filesystem.unstrip_protocol, files)
