"""Leaves images out of training and validation: `data.exclude`, a file that lists their paths."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from src.mlops.data.csv_table import read_table
from src.mlops.data.splits import REFERENCE
from src.mlops.errors import DataError, listed

EXCLUDED = "excluded"  # the split of these images


class Exclusion(NamedTuple):
    """The images that `data.exclude` lists.

    Attributes:
        file: The file that lists them; None: no image is left out.
        paths: Their paths relative to the raw folder, sorted.
    """

    file: Path | None
    paths: list[str]

    def __str__(self) -> str:
        """Returns the name of the file, and a hash of its paths, because the file can be edited."""
        return f"{self.file.name} ({len(self.paths)} images, {_digest(self.paths)})" if self.file else "null"


def read_exclusion(file: Path | None) -> Exclusion:
    """Reads a CSV file with a column `path`, such as the one that `inv data.label-errors` writes.

    Other columns are ignored. Spreadsheets may have saved it with semicolons or tabs instead of commas.

    Raises:
        DataError: The file cannot be read, or has no such column or no paths.
    """
    if file is None:
        return Exclusion(None, [])
    try:
        table = read_table(file)
    except DataError as error:
        raise DataError(f"data.exclude cannot be used. {error}") from error
    if "path" not in table.columns:
        raise DataError(
            f"data.exclude={file} must have a column named path with paths relative to the raw folder, but its columns "
            f"are {', '.join(map(repr, table.columns))}."
        )
    paths = sorted(set(table["path"]) - {""})
    if not paths:
        raise DataError(f"data.exclude={file} lists no images. To leave out none, set data.exclude=null.")
    return Exclusion(file, paths)


def require_known(exclusion: Exclusion, known: pd.Series) -> None:
    """Raises an error if the file lists a path that is not in the raw data.

    Args:
        exclusion: The listed images.
        known: The paths of all images.

    Raises:
        DataError: Names the first unknown paths.
    """
    if unknown := sorted(set(exclusion.paths) - set(known)):
        raise DataError(
            f"data.exclude={exclusion.file} lists paths that are not in the raw data: {listed(unknown, 3)}. The data "
            f"has paths such as {known.iloc[0]}. Remove or correct these lines."
        )


def exclude(split: pd.Series, paths: pd.Series, exclusion: Exclusion) -> pd.Series:
    """Moves the listed images of training and validation to the split `excluded`.

    The other images stay in their splits, so results with and without the listed images can be compared.

    Args:
        split: The split of each image.
        paths: The path of each image.
        exclusion: The listed images.

    Raises:
        DataError: A listed image is in the test set, which results would then describe selectively.
    """
    chosen = paths.isin(exclusion.paths)
    tested = paths[chosen & (split == "test")]
    if len(tested):
        raise DataError(
            f"data.exclude={exclusion.file} lists test images: {listed(list(tested), 3)}. Only images of training and "
            "validation can be left out. Remove these lines."
        )
    return split.mask(chosen & split.isin(["train", "val", REFERENCE]), EXCLUDED)


def _digest(paths: list[str]) -> str:
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()[:8]
