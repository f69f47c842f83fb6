"""The folds of a cross-validation."""

import numpy as np
import pytest

from src.mlops.errors import DataError
from src.mlops.evaluation.folds import classes_in_one_fold, divide


def test_groups_stay_together_and_all_folds_have_all_classes() -> None:
    groups = np.arange(60) // 3
    labels = groups // 5
    folds = divide(labels, groups, seed=0)
    assert all(len(set(folds[groups == group])) == 1 for group in groups)
    assert all(set(folds[labels == label]) == {0, 1, 2, 3, 4} for label in labels)
    assert (divide(labels, groups, seed=0) == folds).all()
    assert (divide(labels, groups, seed=1) != folds).any()


def test_few_groups_give_fewer_folds() -> None:
    assert set(divide(np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 0, 1, 2]), seed=0)) == {0, 1, 2}


@pytest.mark.parametrize(("labels", "groups"), [([0, 0, 1], [5, 5, 5]), ([0, 1, 2], [0, 1, 2])])
def test_too_few_images(labels: list[int], groups: list[int]) -> None:
    with pytest.raises(DataError, match="two tracks and a class with two images"):
        divide(np.array(labels), np.array(groups), seed=0)


def test_classes_in_one_fold() -> None:
    assert classes_in_one_fold(np.array([0, 0, 4, 4, 7]), np.array([0, 1, 1, 1, 0])) == [4, 7]
