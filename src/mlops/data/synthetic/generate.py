"""Writes synthetic images as a data set in the Kaggle layout."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pandas as pd

from src.mlops.config import SignList
from src.mlops.data.classes import CLASSES_FILE, ClassInfo, ClassList
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.layouts import COLUMNS, write_csv
from src.mlops.data.synthetic.camera import Frame, photograph_track
from src.mlops.data.synthetic.drawing import draw_any_version, german_signs
from src.mlops.data.synthetic.outliers import outlier_kinds, render_outliers
from src.mlops.errors import DataError
from src.mlops.io.progress import progress_bar

# Number of the first test track. It is fixed, so more training tracks do not change the test images.
_FIRST_TEST_TRACK = 100_000
MAX_IMAGES = 10_000_000  # about 80 GB
UNKNOWN_THINGS = "outliers"  # what `generate` renders instead of a list of signs
Renderer = Callable[[ClassInfo, np.random.Generator, int], Iterator[Frame]]


def drawing_version() -> str:
    """Returns a hash of the code and the descriptions that images are rendered from."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*")):
        if path.suffix in {".py", ".yaml", ".svg"}:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class _Job(NamedTuple):
    """A track to write, with the paths of its frames relative to the data set."""

    class_id: int
    track: int
    paths: list[str]


def signs_named(name: str) -> ClassList:
    """Returns the classes of `gtsrb` or, with further signs, `germany`; or the kinds of `outliers`.

    Raises:
        DataError: There is no such list of signs.
    """
    lists = {"gtsrb": lambda: SIGNS, "germany": german_signs, UNKNOWN_THINGS: outlier_kinds}
    if name not in lists:
        raise DataError(f"Signs must be {', '.join(get_args(SignList))} or {UNKNOWN_THINGS}, but are {name!r}.")
    return lists[name]()


def generate(
    folder: Path,
    *,
    tracks_per_class: int,
    frames_per_track: int,
    test_tracks_per_class: int,
    seed: int,
    signs: str = "gtsrb",
) -> None:
    """Writes a data set of rendered signs in the Kaggle layout; equal arguments give equal bytes.

    Each track shows one of the versions of the sign that are in use.

    Args:
        folder: Folder to write to. It must be empty or not exist, and is filled only when all images are complete.
        signs: `gtsrb` or, with further signs, `germany`; `outliers` for images of none of them.
        tracks_per_class: Physical signs of each class in `Train/`.
        frames_per_track: Images of each physical sign.
        test_tracks_per_class: Physical signs of each class in `Test/`; 0 leaves the test set empty.
        seed: Seed of all random choices, 0 or more.

    Raises:
        DataError: The folder is not empty, a number is out of range, or there would be more than 10,000,000 images.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"Cannot write synthetic data to {folder}, because it is not an empty folder. "
            "Remove it or choose a different folder."
        )
    if min(tracks_per_class, frames_per_track) < 1 or min(test_tracks_per_class, seed) < 0:
        raise DataError(
            f"Cannot generate synthetic data in {folder}: tracks_per_class ({tracks_per_class}) and frames_per_track "
            f"({frames_per_track}) must be at least 1, and test_tracks_per_class ({test_tracks_per_class}) and seed "
            f"({seed}) must be at least 0."
        )
    classes = signs_named(signs)
    images = len(classes) * frames_per_track * (tracks_per_class + test_tracks_per_class)
    if tracks_per_class > _FIRST_TEST_TRACK or images > MAX_IMAGES:
        raise DataError(
            f"Cannot generate {images:,} synthetic images in {folder}: there can be {MAX_IMAGES:,} images and "
            f"{_FIRST_TEST_TRACK:,} tracks per class. Lower tracks_per_class ({tracks_per_class:,}), "
            f"test_tracks_per_class ({test_tracks_per_class:,}) or frames_per_track ({frames_per_track:,})."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        root = Path(temporary) / folder.name
        for class_id in range(len(classes)):
            (root / "Train" / str(class_id)).mkdir(parents=True)
        (root / "Test").mkdir()
        jobs = _jobs(len(classes), tracks_per_class, frames_per_track, test_tracks_per_class, seed)
        render = render_outliers if signs == UNKNOWN_THINGS else _photograph_sign
        table = pd.DataFrame(_write_tracks(root, classes, render, jobs, seed), columns=COLUMNS)
        is_test = table["path"].str.startswith("Test/")
        write_csv(table[~is_test], root / "Train.csv")
        write_csv(table[is_test].sort_values("path"), root / "Test.csv")
        if classes != SIGNS:  # the layout implies those
            classes.write(root / CLASSES_FILE)
        if folder.exists():
            folder.rmdir()  # it is empty; some systems cannot rename a folder onto an existing one
        root.rename(folder)


def _jobs(classes: int, tracks: int, frames: int, test_tracks: int, seed: int) -> list[_Job]:
    # Test images are numbered in random order, so their names do not reveal the class.
    shuffle = np.random.default_rng(np.random.SeedSequence([seed, classes]))
    test_numbers = shuffle.permutation(classes * test_tracks * frames).reshape(classes, test_tracks, frames)
    train_jobs = [
        _Job(c, track, [f"Train/{c}/{c:05d}_{track:05d}_{frame:05d}.png" for frame in range(frames)])
        for c in range(classes)
        for track in range(tracks)
    ]
    test_jobs = [
        _Job(c, _FIRST_TEST_TRACK + track, [f"Test/{number:05d}.png" for number in test_numbers[c, track]])
        for c in range(classes)
        for track in range(test_tracks)
    ]
    return train_jobs + test_jobs


def _photograph_sign(sign: ClassInfo, rng: np.random.Generator, frames: int) -> Iterator[Frame]:
    return photograph_track(draw_any_version(sign, rng), rng, frames)


def _write_tracks(
    root: Path, classes: ClassList, render: Renderer, jobs: list[_Job], seed: int
) -> list[tuple[str | int, ...]]:
    """Writes the images of all tracks and returns the table's rows with the columns `COLUMNS`."""

    def write(job: _Job) -> list[tuple[str | int, ...]]:
        rng = np.random.default_rng(np.random.SeedSequence([seed, job.class_id, job.track]))
        rows: list[tuple[str | int, ...]] = []
        for path, frame in zip(job.paths, render(classes[job.class_id], rng, len(job.paths)), strict=True):
            frame.image.save(root / path)
            rows.append((path, job.class_id, job.track, *frame.image.size, *frame.roi))
        return rows

    rows = []
    # Pillow releases the GIL while it transforms and compresses.
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress_bar("rendering signs", len(jobs)) as bar:
        for track_rows in pool.map(write, jobs):
            rows += track_rows
            bar.update()
    return rows
