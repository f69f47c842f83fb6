"""Packs images into one memory-mapped uint8 array with a content fingerprint.

A pack is a folder with `images.npy` (uint8 [N, H, W, 3], every raw image once), `index.csv` (one line per row of the
array), `classes.csv`, the split files, the data report, and `pack.json`. `pack.json` is written last; without it, the
pack is invalid.
"""

import hashlib
import json
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import PIL
from numpy.typing import NDArray

from src.mlops import preprocessing
from src.mlops.data.classes import CLASSES_FILE, ClassList, read_classes
from src.mlops.data.gtsrb import SIGNS
from src.mlops.errors import DataError, ImageError
from src.mlops.io.files import sha256
from src.mlops.io.progress import progress_bar

MANIFEST = "pack.json"
IMAGES = "images.npy"
INDEX = "index.csv"
_CHUNK = 64


class Stacked:
    """Several image arrays that are read by row like one array, without copying them.

    Args:
        arrays: uint8 [N, H, W, 3] each; N may differ.
    """

    def __init__(self, *arrays: "NDArray[np.uint8] | Stacked") -> None:
        self._arrays = arrays
        self._starts = np.cumsum([0, *(len(array) for array in arrays)])

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape of all arrays together."""
        return (len(self), *self._arrays[0].shape[1:])

    def __len__(self) -> int:
        """Returns the number of images."""
        return int(self._starts[-1])

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Returns the given rows, uint8 [M, H, W, 3], in the given order."""
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for array, start, end in zip(self._arrays, self._starts, self._starts[1:], strict=False):
            inside = (rows >= start) & (rows < end)
            found[inside] = array[rows[inside] - start]
        return found

    def release(self) -> None:
        """Releases the pages of all arrays that were read."""
        for array in self._arrays:
            release(array)


def release(images: "NDArray[np.uint8] | Stacked") -> None:
    """Releases the pages of a memory-mapped array that were read; they are mapped again when they are needed."""
    if isinstance(images, Stacked):
        images.release()
        return
    mapped: object = images.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


class SplitArrays(NamedTuple):
    """The packed images of one or more splits.

    Attributes:
        images: Memory-mapped uint8 [N, H, W, 3], all images of one or more packs.
        rows: int64 [M], the rows of `images` that belong to the splits.
        labels: int64 [M], class ids.
        paths: M paths relative to the raw folder.
        hashes: M hashes of the decoded pixels, before scaling.
    """

    images: NDArray[np.uint8] | Stacked
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    paths: list[str]
    hashes: list[str]


@dataclass(frozen=True)
class Pack:
    """A prepared data set on disk.

    Attributes:
        directory: The processed folder.
        manifest: Content of `pack.json`.
    """

    directory: Path
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Returns the SHA-256 of the pixels, classes, splits, image size and preprocessing version."""
        return str(self.manifest["fingerprint"])

    @property
    def image_size(self) -> int:
        """Returns the side of the packed images in px."""
        return int(self.manifest["image_size"])

    @cached_property
    def classes(self) -> ClassList:
        """Returns the class list. Packs of earlier releases have none, because they could only contain GTSRB.

        Raises:
            DataError: The file of the classes cannot be read.
        """
        return read_classes(self.directory / CLASSES_FILE)[0] if CLASSES_FILE in self.manifest["files"] else SIGNS

    def require_fit(self, image_size: int, classes: ClassList) -> None:
        """Raises an error if the images cannot be used with a model.

        A model may know more classes than the images show. Its first classes must be those of the images.

        Args:
            image_size: Side in px of the images that the model was trained on.
            classes: The classes of the model.

        Raises:
            DataError: The images have another size, or classes that the model does not have in the same places.
        """
        if self.image_size != image_size:
            raise DataError(
                f"The model was trained on images of {image_size} px, but those in {self.directory} have "
                f"{self.image_size} px. Set data.image_size={image_size} and data.raw_dir to prepare the images again."
            )
        if difference := self.classes.difference_from_first(classes):
            raise DataError(
                f"The images in {self.directory} do not have the classes of the model: {difference}. Use the data that "
                "the model was trained on, or train a new model."
            )

    def load(self, *splits: str) -> SplitArrays:
        """Maps the images of one or more splits into memory and reads only the index.

        Args:
            splits: `train`, `val`, `reference` or `test`.

        Raises:
            DataError: The pack contains no images of these splits, or cannot be read.
        """
        index = self.index()
        try:
            images = np.load(self.directory / IMAGES, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error
        rows = index.index[index["split"].isin(splits)].to_numpy(np.int64)
        if not len(rows):
            raise DataError(f"{self.directory} contains no images of the split {' or '.join(splits)}.")
        chosen = index.loc[rows]
        mapped: object = images.base
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)  # images are read in random order, so reading ahead is useless
        labels = chosen["class_id"].to_numpy(np.int64, copy=True)
        return SplitArrays(images, rows, labels, list(chosen["path"]), list(chosen["content_hash"]))

    def index(self) -> pd.DataFrame:
        """Reads `path`, `class_id`, `track_id`, `content_hash` and `split` of all images, in the order of the array.

        Raises:
            DataError: The file cannot be read.
        """
        kinds = {"path": str, "class_id": np.int64, "track_id": str, "content_hash": str, "split": str}
        try:
            # Without the filter, a track or a path such as `NA` would be read as a missing value.
            return pd.read_csv(self.directory / INDEX, usecols=list(kinds), dtype=kinds, na_filter=False)
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(
            f"Cannot read the prepared data in {self.directory}: {error}. Prepare the data again with "
            "`inv data.prepare --raw-dir FOLDER`."
        )


def stack(first: SplitArrays, second: SplitArrays) -> SplitArrays:
    """Appends the images of another pack with the same image size."""
    return SplitArrays(
        Stacked(first.images, second.images),
        np.concatenate([first.rows, second.rows + len(first.images)]),
        np.concatenate([first.labels, second.labels]),
        [*first.paths, *second.paths],
        [*first.hashes, *second.hashes],
    )


def select(arrays: SplitArrays, places: NDArray[np.int64]) -> SplitArrays:
    """Keeps only the images at the given positions, int64 [K], in this order."""
    paths, hashes = ([column[place] for place in places] for column in (arrays.paths, arrays.hashes))
    return SplitArrays(arrays.images, arrays.rows[places], arrays.labels[places], paths, hashes)


def without(arrays: SplitArrays, classes: list[int]) -> SplitArrays:
    """Removes the images of some classes.

    Raises:
        DataError: No image is left.
    """
    kept = np.flatnonzero(~np.isin(arrays.labels, classes))
    if not len(kept):
        raise DataError(f"No images are left after leaving out the classes {classes}.")
    return select(arrays, kept)


def open_pack(directory: Path) -> Pack:
    """Opens a prepared folder after checking that its files are unchanged.

    Raises:
        DataError: There is no complete pack, or a file has changed.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        files = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"No prepared data in {directory}. Prepare your own images with `inv data.prepare --raw-dir FOLDER`, or "
            "use data=official to download GTSRB, or data=synthetic to generate synthetic images."
        ) from error
    for name, digest in files.items():
        if not (directory / name).is_file() or sha256(directory / name) != digest:
            raise DataError(
                f"{directory / name} is missing or has changed since the data was prepared. "
                "Prepare the data again with `inv data.prepare --raw-dir FOLDER`."
            )
    return Pack(directory, manifest)


def images_signature(raw_dir: Path, paths: list[str], size: int) -> str:
    """Returns a signature of the packed array without opening any image.

    If two signatures are equal, packing would give the same array.

    Args:
        raw_dir: Raw folder.
        paths: Images relative to it, in order.
        size: Side in px.

    Returns:
        SHA-256 of each file's name, size and modification time, and of everything that influences the pixels.
    """
    digest = hashlib.sha256(f"{size} {preprocessing_version()}\n".encode())
    for path in paths:
        try:
            status = os.stat(raw_dir / path)  # noqa: PTH116 - half the time of Path.stat on 45,000 files
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(f"{path}\0missing\n".encode())
    return digest.hexdigest()


def preprocessing_version() -> str:
    """Returns a hash of the code of `preprocessing.py`, and the versions of the packages that decode images."""
    code = sha256(Path(preprocessing.__file__))[:16]
    try:
        heif = version("pillow-heif")
    except PackageNotFoundError:
        heif = "none"
    return f"{code} Pillow {PIL.__version__} pillow-heif {heif}"


def pack_images(raw_dir: Path, paths: list[str], size: int, out: Path) -> pd.DataFrame:
    """Decodes and scales images in parallel and writes them in order to one `.npy` file.

    The row of an unreadable image is black, and its problem is returned.

    Args:
        raw_dir: Raw folder.
        paths: Images relative to it.
        size: Side of the packed images in px.
        out: The file to write, uint8 [len(paths), size, size, 3].

    Returns:
        One row per path: `problem` (empty if the image could be read), `found_width`, `found_height` in px and
        `content_hash`, a hash of the decoded pixels.
    """
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]

    def pack_chunk(chunk: list[str]) -> tuple[bytes, list[tuple[str, int, int, str]]]:
        pixels = np.zeros((len(chunk), size, size, 3), np.uint8)
        chunk_facts = [_pack_one(raw_dir / path, pixels[row]) for row, path in enumerate(chunk)]
        return pixels.tobytes(), chunk_facts

    facts: list[tuple[str, int, int, str]] = []
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), size, size, 3)}
    # Pillow releases the GIL while it decodes and scales, so threads are enough.
    with (
        out.open("wb") as file,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress_bar("packing images", len(paths)) as bar,
    ):
        np.lib.format.write_array_header_2_0(file, header)
        for pixels, chunk_facts in pool.map(pack_chunk, chunks):
            file.write(pixels)
            facts += chunk_facts
            bar.update(len(chunk_facts))
    return pd.DataFrame(facts, columns=["problem", "found_width", "found_height", "content_hash"])


def _pack_one(path: Path, pixels: NDArray[np.uint8]) -> tuple[str, int, int, str]:
    try:
        image = preprocessing.open_image(path, formats=None)
    except ImageError as error:
        return str(error), 0, 0, ""
    pixels[:] = preprocessing.preprocess(image, len(pixels))
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode() + image.tobytes())
    return "", image.width, image.height, digest.hexdigest()[:32]
