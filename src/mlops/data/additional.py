"""Adds images to the data: those collected by the service, and drawn ones.

Each kind has a pack of its own, in a subfolder of the processed folder, so the splits of the data do not change.
"""

import hashlib
import logging
from typing import NamedTuple

import numpy as np

from src.mlops.config import DataConfig, SyntheticConfig
from src.mlops.data.packing import Pack, SplitArrays, select, stack, without
from src.mlops.data.prepare import COLLECTED, DRAWN, prepare
from src.mlops.errors import DataError

logger = logging.getLogger(__name__)
# Collected images are few, but the ones that matter most. They are repeated until they are this share of the training
# images, but at most so many times.
COLLECTED_SHARE = 1 / 3
MOST_TIMES = 10


def prepare_collected(data: DataConfig, base: Pack) -> Pack | None:
    """Prepares the labelled images in `data.collected`, such as those that `inv labels.export` wrote.

    Complete groups are held out for testing and validation. A group stays in its split when more images are collected.
    Groups of which the data has an image already are left out.

    Args:
        data: Location of the images, and settings of the splits.
        base: The data. The images need not show all of its classes.

    Returns:
        The pack, or None if `data.collected` is null.

    Raises:
        DataError: The images are missing or bad, are too few to be split, or have other classes.
    """
    if data.collected is None:
        return None
    if not data.collected.exists():
        raise DataError(
            f"data.collected={data.collected} does not exist. Export labelled images to it with `inv labels.export`."
        )
    pack = _prepare_below(data, COLLECTED, {"raw_dir": data.collected}, base)
    if known := int((pack.index()["split"] == "leak").sum()):
        logger.warning(
            "Left out %d of the images in %s: the data has them, or others of the same signs, already. %s lists them",
            known,
            data.collected,
            pack.directory / "report.md",
        )
    return pack


def prepare_drawn(data: DataConfig, settings: SyntheticConfig) -> Pack:
    """Renders and prepares synthetic images."""
    drawn = {"source": "synthetic", "raw_dir": data.processed_dir / DRAWN / "raw", "synthetic": settings}
    return _prepare_below(data, DRAWN, drawn)


def _prepare_below(data: DataConfig, name: str, changed: dict[str, object], base: Pack | None = None) -> Pack:
    own: dict[str, object] = {
        "source": "local",
        "raw_url": None,
        "collected": None,
        "processed_dir": data.processed_dir / name,
        "processed_url": None,
        "path_column": None,
        "label_column": None,
        "exclude": None,
        "synthetic": None,
    }
    return prepare(data.model_copy(update=own | changed), base)


class TrainingData(NamedTuple):
    """The prepared images of a training.

    Attributes:
        pack: The data.
        collected: Images of the service, split like the data; None: there are none.
        drawn: Synthetic images, all of which are for training; None: there are none.
        leave_out: Ids of the classes to leave out.
    """

    pack: Pack
    collected: Pack | None
    drawn: Pack | None
    leave_out: list[int]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of all images that are not drawn; the settings decide about those."""
        if not self.collected:
            return self.pack.fingerprint
        return hashlib.sha256(f"{self.pack.fingerprint} {self.collected.fingerprint}".encode()).hexdigest()

    def load(self, *splits: str) -> SplitArrays:
        """Returns the images of splits, each once."""
        arrays = self.pack.load(*splits)
        if self.collected:
            arrays = stack(arrays, self.collected.load(*splits))
        return without(arrays, self.leave_out)

    def training_images(self, *splits: str) -> SplitArrays:
        """Returns the images of splits as they are trained on, with drawn ones, and collected ones repeated."""
        arrays = self.pack.load(*splits)
        if self.drawn:
            arrays = stack(arrays, self.drawn.load("train", "val", "test"))
        if self.collected:
            new = self.collected.load(*splits)
            count = len(new.rows)
            times = round(COLLECTED_SHARE / (1 - COLLECTED_SHARE) * len(arrays.rows) / count)
            arrays = stack(arrays, select(new, np.tile(np.arange(count), min(max(times, 1), MOST_TIMES))))
        return without(arrays, self.leave_out)
