"""Splits by group, within each class.

The images of a group belong together. In GTSRB, a group is a track: about 30 frames that show the same physical sign.
If they were on both sides of a split, validation would reward memorising signs. Therefore, complete groups are held
out, class by class.

A quarter of the groups held out for validation become the reference split: the images from which drift detection learns
how the model behaves on images that it was not trained on. Unlike validation images, they are not part of a final fit.
"""

import logging
from collections import Counter, defaultdict

import numpy as np
import pandas as pd

from src.mlops.config import SplitConfig
from src.mlops.data.checks import Findings, merge_tracks

logger = logging.getLogger(__name__)
REFERENCE = "reference"
REFERENCE_SHARE = 0.25  # of the groups held out for validation
FEWEST_GROUPS = 200  # held out for validation; a quarter of fewer could hardly show a drift


def assign_splits(table: pd.DataFrame, findings: Findings, settings: SplitConfig) -> pd.Series:
    """Returns the split of each image: train, val, reference or test, or `bad` or `leak` for images that are dropped.

    Given splits are kept. If the raw data has no test images, complete groups are held out of the training images for
    the test set first, and then for validation if there are no validation images. If they are at least `FEWEST_GROUPS`,
    a part of the latter is the reference split.

    Args:
        table: All images with their given `split`.
        findings: The results of the checks.
        settings: Share and seed of the images to hold out.
    """
    leaked = set(zip(findings.leaks["split"], findings.leaks["track_id"], strict=True))
    keys = zip(table["split"], table["track_id"], strict=True)
    split = table["split"].mask(np.array([key in leaked for key in keys]), "leak")
    split = split.mask(table["path"].isin(findings.bad["path"]), "bad")
    for name in [name for name in ("test", "val") if not (table["split"] == name).any()]:
        candidates = table[split == "train"]
        candidates = candidates.assign(group=merge_tracks(candidates))
        chosen = hold_out(candidates, test_size=settings.test_size, seed=settings.seed)
        split[chosen.index[chosen]] = name
        if name == "test":
            logger.info("There are no test images with labels, so %d images were held out for testing", chosen.sum())
        elif candidates.loc[chosen, "group"].nunique() >= FEWEST_GROUPS:
            reference = hold_out(candidates[chosen], test_size=REFERENCE_SHARE, seed=settings.seed)
            split[reference.index[reference]] = REFERENCE
    return split


def hold_out(table: pd.DataFrame, *, test_size: float, seed: int) -> pd.Series:
    """Holds out a share of the groups of each class.

    Args:
        table: Frame with `class_id` and `group`. The images of a group stay together, also if it has several classes.
        test_size: Share of each class's groups to hold out, above 0 and below 1. At least one group is held out, and
            never all.
        seed: Seed of the random choice.

    Returns:
        Boolean series, True for held-out rows. A class with a single group is not held out.
    """
    # Imported here, because the import takes longer than checking that a prepared data set can be reused.
    from sklearn.model_selection import GroupShuffleSplit

    classes_of: dict[int, list[int]] = defaultdict(list)
    for class_id, group in table[["class_id", "group"]].drop_duplicates().itertuples(index=False):
        classes_of[group].append(class_id)
    left = Counter(class_id for classes in classes_of.values() for class_id in classes)  # groups not held out
    held_out: set[int] = set()
    shared: set[int] = set()  # groups with several classes among them
    for _, rows in table.groupby("class_id", sort=True)["group"]:
        groups = rows.to_numpy()
        available = groups[~np.isin(groups, list(shared))] if shared else groups
        total, left_over = len(np.unique(groups)), len(np.unique(available))
        count = min(max(round(test_size * total), 1), total - 1) - (total - left_over)
        if count < 1:
            continue
        splitter = GroupShuffleSplit(n_splits=1, test_size=count, random_state=seed)
        _, chosen = next(splitter.split(available, groups=available))
        for group in np.unique(available[chosen]).tolist():
            if all(left[other] > 1 for other in classes_of[group]):
                held_out.add(group)
                left.subtract(classes_of[group])
                if len(classes_of[group]) > 1:
                    shared.add(group)
    return table["group"].isin(held_out)
