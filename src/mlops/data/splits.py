"""Track-grouped, class-stratified splits.

About 30 frames show the same physical sign. If they were on both sides of a split, validation would reward memorising
signs. Therefore, complete tracks are held out, class by class.
"""

import logging

import pandas as pd

logger = logging.getLogger(__name__)


def hold_out(table: pd.DataFrame, *, test_size: float, seed: int) -> pd.Series:
    """Holds out a share of the tracks of each class.

    Args:
        table: Frame with `class_id` and `group`. The images of a group stay together.
        test_size: Share of each class's groups to hold out, above 0 and below 1. At least one group is held out, and
            never all.
        seed: Seed of the random choice.

    Returns:
        Boolean series, True for held-out rows. A class with a single group is not held out, and a warning is logged.
    """
    # Imported here, because the import takes longer than checking that a prepared data set can be reused.
    from sklearn.model_selection import GroupShuffleSplit

    held_out = pd.Series(False, index=table.index)
    for class_id, rows in table.groupby("class_id", sort=True):
        groups = rows["group"].nunique()
        if groups < 2:
            logger.warning(
                "Class %s has a single track, so all its images are used for training and none for validation", class_id
            )
            continue
        # Keep at least one group on each side, also with an extreme test_size.
        count = min(max(round(test_size * groups), 1), groups - 1)
        splitter = GroupShuffleSplit(n_splits=1, test_size=count, random_state=seed)
        _, chosen = next(splitter.split(rows, groups=rows["group"]))
        held_out.loc[rows.index[chosen]] = True
    # If a group spans several classes (an image under two classes), one held-out row holds out the complete group.
    return table["group"].isin(set(table.loc[held_out, "group"]))
