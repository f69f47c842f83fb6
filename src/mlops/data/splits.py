"""Splits by group, within each class.

The images of a group belong together. In GTSRB, a group is a track: about 30 frames that show the same physical sign.
If they were on both sides of a split, validation would reward memorising signs. Therefore, complete groups are held
out, class by class.

A quarter of the groups held out for validation become the reference split: the images from which drift detection learns
how the model behaves on images that it was not trained on. Unlike validation images, they are not part of a final fit.
"""

import hashlib
import logging
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from src.mlops.config import SplitConfig
from src.mlops.data.checks import Findings, merge_tracks
from src.mlops.errors import DataError

logger = logging.getLogger(__name__)
REFERENCE = "reference"
REFERENCE_SHARE = 0.25  # of the groups held out for validation
FEWEST_GROUPS = 200  # held out for validation; a quarter of fewer could hardly show a drift


def assign_splits(table: pd.DataFrame, findings: Findings, settings: SplitConfig, *, stable: bool = False) -> pd.Series:
    """Returns the split of each image: train, val, reference or test, or `bad` or `leak` for images that are dropped.

    Given splits are kept. If the raw data has no test images, complete groups are held out of the training images for
    the test set first, and then for validation if there are no validation images. If they are at least `FEWEST_GROUPS`,
    a part of the latter is the reference split.

    Args:
        table: All images with their given `split`.
        findings: The results of the checks.
        settings: Share and seed of the images to hold out.
        stable: Whether groups must stay in their splits when others are added, which is more important for added images
            than the same share of each class. There is no reference split then.
    """
    leaked = set(zip(findings.leaks["split"], findings.leaks["track_id"], strict=True))
    keys = zip(table["split"], table["track_id"], strict=True)
    split = table["split"].mask(np.array([key in leaked for key in keys]), "leak")
    split = split.mask(table["path"].isin(findings.bad["path"]), "bad")
    held_out = [name for name in ("test", "val") if not (table["split"] == name).any()]
    for place, name in enumerate(held_out):
        candidates = table[split == "train"]
        candidates = candidates.assign(group=merge_tracks(candidates))
        if stable:
            left = len(held_out) - place  # groups for the next splits, and for training
            chosen = hold_out_by_name(candidates, share=settings.test_size, salt=f"{name} {settings.seed}", left=left)
        else:
            chosen = hold_out(candidates, test_size=settings.test_size, seed=settings.seed)
        split[chosen.index[chosen]] = name
        if name == "test":
            reason = "" if stable else "There are no test images with labels, so "
            images = "of the collected images" if stable else "images"
            logger.info("%s%d %s were held out for testing", reason, chosen.sum(), images)
        elif not stable and candidates.loc[chosen, "group"].nunique() >= FEWEST_GROUPS:
            reference = hold_out(candidates[chosen], test_size=REFERENCE_SHARE, seed=settings.seed)
            split[reference.index[reference]] = REFERENCE
    return split


def require_splits(assigned: pd.Series, given: set[str], raw_dir: Path, *, added: bool) -> None:
    """Raises an error if a split has no images.

    Args:
        assigned: The split of each image, from `assign_splits`.
        given: The splits that the raw data has.
        raw_dir: The raw folder, for messages.
        added: Whether the images are added to others. Then a test set is needed also if the raw data has none.

    Raises:
        DataError: Says what to do.
    """
    counts = assigned.value_counts()
    needed = {"train", "val", "test"} if added or "test" in given else {"train", "val"}
    missing = needed - set(counts.index)
    if not missing:
        return
    if added and set(counts.index) == {"leak"}:
        raise DataError(
            f"All images in {raw_dir}, or others of the same signs, are in the data already, so there are none to add. "
            "Label other images, or set data.collected=null."
        )
    group = "A group is one image, or all images of a track or with the same value in the column 'group'"
    if added and not given & {"val", "test"}:
        advice = f"Three groups of images that the data does not have yet are needed, one for each split. {group}"
    elif missing == {"val"} and "val" not in given:
        groups = 2 if "test" in given else 3
        advice = (
            f"At least one class needs {groups} groups of images, so that one can be held out for each split. {group}"
        )
    else:
        advice = f"Repair or add images for {' and '.join(sorted(missing))}"
    raise DataError(
        f"Training, validation and given test splits need images, but the images in {raw_dir} are split into "
        f"{counts.to_dict()}. Nothing was written. {advice}."
    )


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


def hold_out_by_name(table: pd.DataFrame, *, share: float, salt: str, left: int) -> pd.Series:
    """Holds out groups by a hash of their names, so each of them stays on its side when others are added.

    Otherwise, a second retraining would be tested on images that the first one has trained on.

    Args:
        table: Frame with `track_id` and `group`.
        share: Share of the groups to hold out, above 0 and below 1. As hashes are random, so is the number of groups.
        salt: Any text. Another one gives another choice.
        left: Number of groups that are never held out. If there are more, at least one is held out.

    Returns:
        Boolean series, True for held-out rows.
    """
    names = table.groupby("group")["track_id"].min()
    digests = names.map(lambda name: hashlib.sha256(f"{salt} {name}".encode()).digest()[:8])
    places = digests.map(lambda digest: int.from_bytes(digest) / 2**64).sort_values()
    count = min(max(int((places < share).sum()), 1), max(len(places) - left, 0))
    return table["group"].isin(places.index[:count])
