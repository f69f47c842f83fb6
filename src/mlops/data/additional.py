"""Adds images to the data: those collected by the service, drawn ones, and outliers.

Each kind has a pack of its own, in a subfolder of the processed folder, so the splits of the data do not change.
"""

import hashlib
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from src.mlops.config import Config, DataConfig, OutlierConfig, SyntheticConfig
from src.mlops.data.augment import OUTLIER
from src.mlops.data.classes import ClassList
from src.mlops.data.packing import Pack, SplitArrays, select, stack, without
from src.mlops.data.prepare import COLLECTED, DRAWN, OUTLIERS, prepare
from src.mlops.data.splits import REFERENCE
from src.mlops.data.synthetic.generate import UNKNOWN_THINGS, signs_named
from src.mlops.data.synthetic.outliers import outlier_kinds
from src.mlops.errors import ConfigError, DataError

logger = logging.getLogger(__name__)
# Collected images are few, but the ones that matter most. They are repeated until they are this share of the training
# images, but at most so many times.
COLLECTED_SHARE = 1 / 3
MOST_TIMES = 10
_ALL_SPLITS = ("train", "val", REFERENCE, "test")
_FRAMES = 2  # images of each invented sign


def classes_to_learn(data: ClassList, drawn: SyntheticConfig | None) -> ClassList:
    """Returns the classes of the data and, if further signs are drawn, those as well.

    Args:
        data: The classes of the data.
        drawn: Settings of the drawn images; None: there are none.

    Raises:
        ConfigError: The drawn signs are not those of the data, with or without further ones.
    """
    if drawn is None:
        return data
    signs = signs_named(drawn.signs)
    if difference := data.difference_from_first(signs):
        raise ConfigError(
            f"training.drawn.signs={drawn.signs} draws {len(signs)} German signs, whose first classes must be those of "
            f"the data, but the data has other classes: {difference}. Use GTSRB, or train without drawn "
            "signs: training.drawn=null and classes=gtsrb."
        )
    return signs if len(signs) > len(data) else data  # a classes.csv of the data may have other mirrored classes


def prepare_collected(data: DataConfig, base: Pack, classes: ClassList | None = None) -> Pack | None:
    """Prepares the labelled images in `data.collected`, such as those that `inv labels.export` wrote.

    Complete groups are held out for testing and validation. A group stays in its split when more images are collected.
    Groups of which the data has an image already are left out.

    Args:
        data: Location of the images, and settings of the splits.
        base: The data. The images need not show all of its classes.
        classes: The classes of the model, which can be more than those of the data; None: those of the data.

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
    pack = _prepare_below(data, COLLECTED, {"raw_dir": data.collected}, base, classes)
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
    return _render_below(data, DRAWN, settings)


def prepare_outliers(data: DataConfig, settings: OutlierConfig) -> Pack:
    """Renders and prepares images of unknown things. Their classes are the kinds of things."""
    tracks = max(2, round(settings.images / (_FRAMES * len(outlier_kinds()))))
    synthetic = SyntheticConfig(
        tracks_per_class=tracks, frames_per_track=_FRAMES, test_tracks_per_class=1, seed=settings.seed
    ).model_copy(update={"signs": UNKNOWN_THINGS})
    return _render_below(data, OUTLIERS, synthetic)


def prepare_further(data: DataConfig, base: Pack, classes: ClassList, drawn: Mapping[str, Any] | None) -> Pack | None:
    """Renders and prepares the drawings that a model was trained on, if they show signs that the data does not have.

    Args:
        data: Location of the prepared data.
        base: The data.
        classes: The classes of the model.
        drawn: Its `training.drawn`.

    Returns:
        The pack, or None if the model has only the classes of the data. Also None, with a warning, if the other ones
        cannot be drawn.
    """
    if len(classes) == len(base.classes):
        return None
    try:
        settings = SyntheticConfig.model_validate(drawn)
        known = signs_named(settings.signs).starts_with(classes)
    except ValueError:  # none, or those of another release
        known = False
    if not known:
        logger.warning(
            "The images show only %d of the %d classes of the model, and the rest cannot be drawn as in its training",
            len(base.classes),
            len(classes),
        )
        return None
    return prepare_drawn(data, settings)


def load_further(drawn: Pack, split: str, known: int, classes: int) -> SplitArrays:
    """Returns the drawings of further signs in a split.

    Args:
        drawn: The drawings of all signs.
        split: `train`, `val` or `test`. There is no reference split, because drift is measured on the data.
        known: Number of classes of the data.
        classes: Number of classes of the model.

    Raises:
        DataError: There are none.
    """
    splits = ("val", REFERENCE) if split == "val" else (split,)
    others = [*range(known), *range(classes, len(drawn.classes))]
    return without(drawn.load(*splits), others)


def _render_below(data: DataConfig, name: str, settings: SyntheticConfig) -> Pack:
    rendered = {"source": "synthetic", "raw_dir": data.processed_dir / name / "raw", "synthetic": settings}
    return _prepare_below(data, name, rendered)


def _prepare_below(
    data: DataConfig,
    name: str,
    changed: dict[str, object],
    base: Pack | None = None,
    classes: ClassList | None = None,
) -> Pack:
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
    return prepare(data.model_copy(update=own | changed), base, classes)


class TrainingData(NamedTuple):
    """The prepared images of a training.

    Attributes:
        pack: The data.
        collected: Images of the service, split like the data; None: there are none.
        drawn: Synthetic images; None: there are none. All of those that show the classes of the data are for training.
            Further signs, which only they show, have splits.
        leave_out: Ids of the classes to leave out.
        outliers: Images of unknown things for training; None: there are none.
    """

    pack: Pack
    collected: Pack | None
    drawn: Pack | None
    leave_out: list[int]
    outliers: Pack | None = None

    @property
    def classes(self) -> ClassList:
        """The classes of the data and, if further signs are drawn, those as well."""
        return (self._further_drawings or self.pack).classes

    @property
    def fingerprint(self) -> str:
        """The fingerprint of all images."""
        prints = [pack.fingerprint for pack in (self.pack, self.collected, self.drawn, self.outliers) if pack]
        return prints[0] if len(prints) == 1 else hashlib.sha256(" ".join(prints).encode()).hexdigest()

    @property
    def _further_drawings(self) -> Pack | None:
        """The drawings if they show further signs."""
        return self.drawn if self.drawn and len(self.drawn.classes) > len(self.pack.classes) else None

    def drawn_classes(self, *, synthetic: bool) -> list[int]:
        """Returns the ids of the classes of which there are drawings, but no photographs.

        Args:
            synthetic: Whether the data itself consists of drawings.
        """
        photographed = set() if synthetic else set(range(len(self.pack.classes)))
        if self.collected:
            photographed |= set(self.collected.load("train", "val").labels.tolist())
        return sorted(set(range(len(self.classes))) - photographed)

    def load(self, *splits: str) -> SplitArrays:
        """Returns the images of splits, each once, without drawn ones."""
        arrays = self.pack.load(*splits)
        if self.collected:
            arrays = stack(arrays, self.collected.load(*splits))
        return without(arrays, self.leave_out)

    def further(self, split: str) -> SplitArrays | None:
        """Returns the drawings of further signs in a split; None if there are none."""
        drawings = self._further_drawings
        if drawings is None:
            return None
        return without(load_further(drawings, split, len(self.pack.classes), len(drawings.classes)), self.leave_out)

    def training_images(self, *splits: str, real: SplitArrays | None = None) -> SplitArrays:
        """Returns the images of splits as they are trained on: with drawn ones, collected ones repeated, and outliers.

        The label of the outliers is `OUTLIER`.

        Args:
            splits: `train`, `val` or both.
            real: Images of the data to train on, such as some of its folds; None: those of the splits.
        """
        arrays = self.pack.load(*splits) if real is None else real
        if self.drawn:
            known = self.drawn.load(*_ALL_SPLITS)
            arrays = stack(arrays, select(known, np.flatnonzero(known.labels < len(self.pack.classes))))
        for further in filter(None, map(self.further, splits)):
            arrays = stack(arrays, further)
        if self.collected:
            new = self.collected.load(*splits)
            count = len(new.rows)
            times = round(COLLECTED_SHARE / (1 - COLLECTED_SHARE) * len(arrays.rows) / count)
            arrays = stack(arrays, select(new, np.tile(np.arange(count), min(max(times, 1), MOST_TIMES))))
        arrays = without(arrays, self.leave_out)
        if self.outliers:
            unknown = self.outliers.load(*_ALL_SPLITS)
            arrays = stack(arrays, unknown._replace(labels=np.full_like(unknown.labels, OUTLIER)))
        return arrays


def prepare_training(config: Config, pack: Pack) -> TrainingData:
    """Prepares all images that `training` and `data.collected` add to the data.

    Args:
        config: The complete configuration.
        pack: The data.

    Raises:
        ConfigError: The drawn signs are not those of the data, with or without further ones.
        DataError: The collected images are missing or bad, are too few to be split, or have other classes.
    """
    training = config.training
    collected = prepare_collected(config.data, pack, classes_to_learn(pack.classes, training.drawn))
    drawn = prepare_drawn(config.data, training.drawn) if training.drawn else None
    outliers = prepare_outliers(config.data, training.outliers) if training.outliers else None
    if outliers and pack.classes.difference_from_first(signs_named("germany")):
        logger.warning(
            "training.outliers shows signs that do not exist in Germany. If some of them are among the classes of the "
            "data, set training.outliers=null"
        )
    return TrainingData(pack, collected, drawn, training.leave_out, outliers)
