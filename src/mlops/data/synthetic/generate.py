"""Writes photographs of the drawn signs as a dataset in the Kaggle layout."""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from src.mlops.data.camera import photograph_track
from src.mlops.data.layouts import COLUMNS, write_csv
from src.mlops.data.signs import NUM_CLASSES
from src.mlops.errors import DataError
from src.mlops.progress import ProgressBar

# Test tracks are numbered from here, so that asking for more training tracks leaves the test images as they were.
_FIRST_TEST_TRACK = 100_000


class _Job(NamedTuple):
    """A track to write: the frames' paths, relative to the dataset."""

    class_id: int
    track: int
    paths: list[str]


def generate(
    folder: Path, *, tracks_per_class: int, frames_per_track: int, test_tracks_per_class: int, seed: int
) -> None:
    """Writes a dataset of photographed drawings in the Kaggle layout; equal arguments give equal bytes.

    Args:
        folder: Where to write; must not exist or be empty. Appears only when it is complete.
        tracks_per_class: Physical signs of each class in `Train/`.
        frames_per_track: Photographs of each physical sign.
        test_tracks_per_class: Physical signs of each class in `Test/`; 0 leaves the test set empty.
        seed: Seed of all random choices, 0 or more.

    Raises:
        DataError: If the folder is not empty, or a number is out of its range.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"expected a new or empty folder for synthetic data, found that {folder} is in use. "
            "Remove it or choose another one."
        )
    if min(tracks_per_class, frames_per_track) < 1 or min(test_tracks_per_class, seed) < 0:
        raise DataError(
            "expected tracks_per_class and frames_per_track of 1 or more, test_tracks_per_class and seed of 0 or more, "
            f"found {tracks_per_class}, {frames_per_track}, {test_tracks_per_class} and {seed} for the synthetic data "
            f"in {folder}. Correct these settings."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        root = Path(temporary) / folder.name
        for class_id in range(NUM_CLASSES):
            (root / "Train" / str(class_id)).mkdir(parents=True)
        (root / "Test").mkdir()
        jobs = _jobs(tracks_per_class, frames_per_track, test_tracks_per_class, seed)
        table = pd.DataFrame(_write_tracks(root, jobs, seed), columns=COLUMNS)
        is_test = table["path"].str.startswith("Test/")
        write_csv(table[~is_test], root / "Train.csv")
        write_csv(table[is_test].sort_values("path"), root / "Test.csv")
        if folder.exists():
            folder.rmdir()  # empty, see above; not every system renames onto an existing folder
        root.rename(folder)


def _jobs(tracks: int, frames: int, test_tracks: int, seed: int) -> list[_Job]:
    # Test images are numbered in random order, so that a name tells nothing of the class.
    shuffle = np.random.default_rng(np.random.SeedSequence([seed, NUM_CLASSES]))
    test_numbers = shuffle.permutation(NUM_CLASSES * test_tracks * frames).reshape(NUM_CLASSES, test_tracks, frames)
    train_jobs = [
        _Job(c, track, [f"Train/{c}/{c:05d}_{track:05d}_{frame:05d}.png" for frame in range(frames)])
        for c in range(NUM_CLASSES)
        for track in range(tracks)
    ]
    test_jobs = [
        _Job(c, _FIRST_TEST_TRACK + track, [f"Test/{number:05d}.png" for number in test_numbers[c, track]])
        for c in range(NUM_CLASSES)
        for track in range(test_tracks)
    ]
    return train_jobs + test_jobs


def _write_tracks(root: Path, jobs: list[_Job], seed: int) -> list[tuple[str | int, ...]]:
    """Writes the images of all tracks; returns the table's rows in the order of `COLUMNS`."""

    def write(job: _Job) -> list[tuple[str | int, ...]]:
        rng = np.random.default_rng(np.random.SeedSequence([seed, job.class_id, job.track]))
        rows: list[tuple[str | int, ...]] = []
        for path, frame in zip(job.paths, photograph_track(job.class_id, rng, len(job.paths)), strict=True):
            frame.image.save(root / path)
            rows.append((path, job.class_id, job.track, *frame.image.size, *frame.roi))
        return rows

    rows = []
    # Pillow lets go of the interpreter lock while it transforms and compresses.
    with ThreadPoolExecutor(os.cpu_count()) as pool, ProgressBar("drawing signs", len(jobs)) as bar:
        for done, track_rows in enumerate(pool.map(write, jobs), start=1):
            rows += track_rows
            bar.show(done)
    return rows
