"""Track-grouped, class-stratified splits.

About 30 frames show one physical sign. Were they to stand on both sides of a split, validation would reward learning
signs by heart, so whole tracks are held out, class by class.
"""

import logging

import pandas as pd

logger = logging.getLogger(__name__)


def hold_out(table: pd.DataFrame, *, test_size: float, seed: int) -> pd.Series:
    """Chooses the held-out images of each class by tracks.

    Args:
        table: Frame with `class_id` and `group`, the images that must stay together.
        test_size: Share of each class's groups to hold out, above 0 and below 1; at least one, and never all.
        seed: Seeds the choice.

    Returns:
        Boolean series: True for held-out rows. A class with a single group stays out of it and is logged.
    """
    # Here, since its import takes longer than finding out that a prepared data set can be reused.
    from sklearn.model_selection import GroupShuffleSplit

    held_out = pd.Series(False, index=table.index)
    for class_id, rows in table.groupby("class_id", sort=True):
        groups = rows["group"].nunique()
        if groups < 2:
            logger.warning("class %s has a single track: all its images are trained on, none validated", class_id)
            continue
        # The extremes of test_size must not leave one side without a group.
        count = min(max(round(test_size * groups), 1), groups - 1)
        splitter = GroupShuffleSplit(n_splits=1, test_size=count, random_state=seed)
        _, chosen = next(splitter.split(rows, groups=rows["group"]))
        held_out.loc[rows.index[chosen]] = True
    # A group that spans classes (a picture under two classes) follows its first held-out row.
    return table["group"].isin(set(table.loc[held_out, "group"]))
