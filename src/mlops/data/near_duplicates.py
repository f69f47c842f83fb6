"""Finds images that are nearly the same on both sides of a split, such as two copies of one photo in different sizes.

Candidates have a similar difference hash (dHash): one bit for each pair of neighbours in a grey image of 9 x 8 px, set
if the right one is brighter. Many small images of the same kind of object have similar hashes, so candidates are
compared by the correlation of their grey values in 16 x 16 px. docs/reference/data.md states the measured error rates.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MAX_BITS = 6  # of 64 that differ between the hashes of near-duplicates
MIN_CORRELATION = 0.985
_CANDIDATES = 8  # nearest images, by their hash, that are compared with each image
_MIN_CONTRAST = 4.0  # standard deviation in grey levels; below, the bits of a hash are mostly noise
_THUMBNAIL = 16  # px
_CHUNK = 64


class _Fingerprints(NamedTuple):
    """Attributes: `hashes` uint64 [N]; `thumbnails` float32 [N, 256] with mean 0 and norm 1, or 0 without contrast."""

    hashes: NDArray[np.uint64]
    thumbnails: NDArray[np.float32]

    def of(self, rows: NDArray[np.int64]) -> "_Fingerprints":
        return _Fingerprints(self.hashes[rows], self.thumbnails[rows])


def find_near_duplicates(images: NDArray[np.uint8], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Finds held-out images that are nearly the same as an image that the model is trained or validated on.

    Args:
        images: uint8 [N, H, W, 3].
        table: One row per image with `path` and `split`.

    Returns:
        For each such image, its most similar counterpart, with the keys of `checks.pair`, the most similar pairs first.
    """
    split = table["split"].to_numpy()
    paths = table["path"].to_numpy()
    prints = _fingerprints(images)
    found: list[tuple[float, dict[str, Any]]] = []
    for held_out, others in (("val", ["train"]), ("reference", ["train", "val"]), ("test", ["train", "val"])):
        rows, against = np.flatnonzero(split == held_out), np.flatnonzero(np.isin(split, others))
        for row, match, correlation in _matches(prints.of(rows), prints.of(against)):
            other = against[match]
            pair = {f"{split[other]}_path": paths[other], f"{held_out}_path": paths[rows[row]]}
            found.append((correlation, pair))
    return [pair for _, pair in sorted(found, key=lambda entry: -entry[0])]


def _matches(images: _Fingerprints, others: _Fingerprints) -> list[tuple[int, int, float]]:
    """Returns the row of each image that has a near-duplicate, the row of the most similar one, and the correlation."""
    found: list[tuple[int, int, float]] = []
    nearest = min(_CANDIDATES, len(others.hashes))
    for start in range(0, len(images.hashes) if nearest else 0, _CHUNK):
        bits = np.bitwise_count(images.hashes[start : start + _CHUNK, None] ^ others.hashes)
        hits = np.flatnonzero((bits <= MAX_BITS).any(axis=1))
        if not len(hits):
            continue
        candidates = np.argpartition(bits[hits], nearest - 1, axis=1)[:, :nearest]
        close = np.take_along_axis(bits[hits], candidates, axis=1) <= MAX_BITS
        correlations = np.einsum("id,ikd->ik", images.thumbnails[start + hits], others.thumbnails[candidates]) * close
        best = correlations.argmax(axis=1)
        for hit, place in enumerate(best):
            if correlations[hit, place] >= MIN_CORRELATION:
                found.append((int(start + hits[hit]), int(candidates[hit, place]), float(correlations[hit, place])))
    return found


def _fingerprints(images: NDArray[np.uint8]) -> _Fingerprints:
    hashes = np.zeros(len(images), np.uint64)
    thumbnails = np.zeros((len(images), _THUMBNAIL**2), np.float32)
    for start in range(0, len(images), 1024):
        part = slice(start, start + 1024)
        pixels = images[part].astype(np.float32)
        brighter = np.diff(_shrink(pixels, 8, 9), axis=2) > 0
        hashes[part] = np.packbits(brighter.reshape(-1, 64), axis=1).view(np.uint64).ravel()
        flat = _shrink(pixels, _THUMBNAIL, _THUMBNAIL).reshape(-1, _THUMBNAIL**2)
        flat -= flat.mean(axis=1, keepdims=True)
        contrast = flat.std(axis=1, keepdims=True)
        norm = np.linalg.norm(flat, axis=1, keepdims=True)
        thumbnails[part] = np.where(contrast < _MIN_CONTRAST, 0, flat / np.maximum(norm, 1e-6))
    return _Fingerprints(hashes, thumbnails)


def _shrink(pixels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Averages blocks of pixels and their three channels, float32 [N, H, W, 3] -> [N, height, width]."""
    count, rows, columns, channels = pixels.shape
    across = np.repeat(_average(columns, width), channels, axis=1).T / channels
    shrunk: NDArray[np.float32] = _average(rows, height) @ (pixels.reshape(count, rows, -1) @ across)
    return shrunk


def _average(size: int, blocks: int) -> NDArray[np.float32]:
    """Returns the matrix that averages `size` values in blocks of almost the same length, float32 [blocks, size]."""
    block_of = np.arange(size) * blocks // size
    matrix: NDArray[np.float32] = (block_of == np.arange(blocks)[:, None]).astype(np.float32)
    matrix /= matrix.sum(axis=1, keepdims=True)
    return matrix
