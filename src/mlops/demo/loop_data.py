"""What the camera of the loop sees: signs that are not in the training data, sign after sign."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from src.mlops.data.layouts import read_layout
from src.mlops.data.splits import hold_out
from src.mlops.data.synthetic.generate import generate
from src.mlops.demo.traffic import in_fog
from src.mlops.errors import DataError
from src.mlops.preprocessing import open_image

DRAWN = {"tracks_per_class": 30, "frames_per_track": 5, "test_tracks_per_class": 5}  # of the training and test images
_TRACKS = 12  # drawn signs of each class for the camera
_SHARE = 0.2  # of the signs of each class that are held out for the camera
_FRAMES = 5  # images of each sign
_MOST = 3000  # images


class Scene(NamedTuple):
    """The images of the camera, and the data for training.

    Attributes:
        images: PNG files for each severity of the fog, see `in_fog`.
        truth: The class of each image.
        signs: Number of physical signs.
        settings: Settings of the data for training and testing.
        processed: Folder of the prepared data.
    """

    images: dict[int, list[bytes]]
    truth: list[int]
    signs: int
    settings: list[str]
    processed: Path


def draw_scene(work: Path) -> Scene:
    """Draws the signs, other ones than those of the training data."""
    folder, processed = work / "camera", work / "processed"
    generate(folder, tracks_per_class=_TRACKS, frames_per_track=_FRAMES, test_tracks_per_class=0, seed=1)
    settings = [f"data.synthetic.{key}={value}" for key, value in DRAWN.items()]
    places = [f"data.raw_dir={work / 'raw'}", f"data.processed_dir={processed}"]
    lax = "gate.min_class_f1=0.6"  # measured on few images of each class
    return _scene(folder, read_layout(folder).train, ["data=synthetic", *settings, *places, lax], processed)


def hold_out_scene(raw_dir: Path, work: Path) -> Scene:
    """Holds a share of the signs out of the training images of a folder.

    Raises:
        DataError: The folder cannot be read, or its images do not say which of them show the same sign.
    """
    raw = read_layout(raw_dir)
    if (raw.train["track_id"] == raw.train["path"]).all():
        raise DataError(
            f"Nothing says which images in {raw_dir} show the same object, so the camera would see objects of the "
            "training images. See docs/reference/data.md for groups."
        )
    chosen = hold_out(raw.train.assign(group=raw.train["track_id"]), test_size=_SHARE, seed=0)
    exclusion, processed = work / "camera.csv", work / "processed"
    raw.train.loc[chosen, ["path"]].to_csv(exclusion, index=False, quoting=csv.QUOTE_ALL)
    places = [f"data.raw_dir={raw_dir}", f"data.exclude={exclusion}", f"data.processed_dir={processed}"]
    return _scene(raw_dir, raw.train[chosen], places, processed)


def _scene(folder: Path, table: pd.DataFrame, settings: list[str], processed: Path) -> Scene:
    """Lets the camera pass the signs in random order, and each of them from far to near."""
    rng = np.random.default_rng(0)
    signs = [frames for _, frames in table.sort_values("path").groupby("track_id")]
    passed = [signs[number] for number in rng.permutation(len(signs))[: _MOST // _FRAMES]]
    seen = pd.concat(
        [frames.iloc[np.unique(np.linspace(0, len(frames) - 1, _FRAMES).astype(int))] for frames in passed]
    )
    images = in_fog([open_image(folder / path) for path in seen["path"]])
    return Scene(images, seen["class_id"].tolist(), len(passed), settings, processed)
