"""Reads the CSV files of raw data: which column means what, and which values are valid."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from src.mlops.errors import DataError
from src.mlops.io.csv_text import read_csv_text

SIZES = ("width", "height", "roi_x1", "roi_y1", "roi_x2", "roi_y2")
GTSRB_COLUMNS = ("Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")
_MAX_SIDE = 1_000_000  # px
# Usual names of columns without case, spaces and punctuation; the first one in a file is used.
_NAMES: dict[str, Sequence[str]] = {
    "path": (
        *("path", "filepath", "imagepath", "imgpath", "filename", "imagefilename", "file", "imagefile"),
        *("image", "img", "imagename", "imageid", "id"),
    ),
    "label": ("label", "class", "classname", "labelname", "target", "category", "classid", "labelid"),
    "split": ("split", "subset", "partition"),
    "group": ("group", "groupid", "track", "trackid"),
    **{name: (name.replace("_", ""),) for name in SIZES},
}


def read_table(csv: Path) -> pd.DataFrame:
    """Reads a CSV file. All values are strings without spaces around them, and the index has the line numbers.

    Raises:
        DataError: The file cannot be read, is empty, or has lines with too many values.
    """
    text, separator = read_csv_text(csv)
    if not text.strip():
        raise DataError(f"Cannot read {csv}: it is empty.")
    shown = "a tab" if separator == "\t" else f"'{separator}'"
    try:
        frame = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            dtype=str,
            keep_default_na=False,
            na_filter=False,
            skip_blank_lines=False,
            skipinitialspace=True,
        )
    except ValueError as error:
        raise DataError(f"Cannot read {csv} as a table separated by {shown}: {str(error).strip()}.") from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(
            f"Cannot read {csv} as a table separated by {shown}: its lines have more values than the first line names."
        )
    frame.index += 2
    frame = pd.DataFrame({str(name).strip(): column.str.strip() for name, column in frame.items()})
    return frame.loc[(frame != "").any(axis=1)]


def find_column(frame: pd.DataFrame, kind: str, name: str | None = None) -> str | None:
    """Returns the column for a kind of value, such as `path` or `label`; None if there is none.

    Args:
        frame: The table.
        kind: A key of the usual names.
        name: Name of the column if it is not a usual one.
    """
    if name is not None:
        return name if name in frame.columns else None
    plain = {re.sub(r"[\W_]", "", column).lower(): column for column in reversed(frame.columns)}
    return next((plain[usual] for usual in _NAMES[kind] if usual in plain), None)


def is_gtsrb(frame: pd.DataFrame, path_column: str) -> bool:
    """Returns whether a table has the columns of the GTSRB benchmark."""
    return {*GTSRB_COLUMNS, path_column}.issubset(frame.columns)


def read_rows(
    frame: pd.DataFrame, csv: Path, path_column: str | None = None, label_column: str | None = None
) -> pd.DataFrame:
    """Selects what a table says about images.

    Args:
        frame: From `read_table`.
        csv: The file, for messages.
        path_column: Name of the column with the paths; None: a usual name.
        label_column: Name of the column with the labels; None: a usual name.

    Returns:
        A frame with the strings `path`, `label`, `split` and `group` (empty if there is no such column) and the
        integers `SIZES` in px (0 if not known).

    Raises:
        DataError: There is no column for the paths, a path is empty, or a size is not a whole number.
    """
    names = {"path": path_column, "label": label_column}
    columns = {kind: find_column(frame, kind, names.get(kind)) for kind in _NAMES}
    if columns["path"] is None:
        raise no_column(csv, frame, "paths of the images", "path_column", path_column)
    rows = pd.DataFrame(index=frame.index)
    for kind in ("path", "label", "split", "group"):
        column = columns[kind]
        rows[kind] = "" if column is None else frame[column]
    if (rows["path"] == "").any():
        raise DataError(f"Line {(rows['path'] == '').idxmax()} of {csv} has no path in the column {columns['path']!r}.")
    if rows["label"].str.fullmatch(r"(\d+\.0)?").all():  # pandas writes numbers like this if one is missing
        rows["label"] = rows["label"].str.removesuffix(".0")
    for kind in SIZES:
        rows[kind] = _whole_numbers(frame, columns[kind], csv)
    return rows


def no_column(csv: Path, frame: pd.DataFrame, content: str, setting: str, name: str | None) -> DataError:
    """Returns the error that a table has no column for something."""
    found = f"no column {name!r}" if name else f"no column with a usual name for the {content}"
    return DataError(
        f"{csv} has {found}; its columns are {', '.join(map(repr, frame.columns))}. Set data.{setting} to the column "
        f"with the {content}."
    )


def _whole_numbers(frame: pd.DataFrame, column: str | None, csv: Path) -> pd.Series | int:
    if column is None:
        return 0
    numbers = pd.to_numeric(frame[column].where(frame[column] != "", "0"), errors="coerce")
    bad = ~(numbers.between(-_MAX_SIDE, _MAX_SIDE) & (numbers % 1 == 0))
    if bad.any():
        line, value = next(frame.loc[bad, column].items())
        raise DataError(
            f"Line {line} of {csv} has {value!r} in the column {column!r}, which must contain whole numbers of pixels."
        )
    return numbers.astype("int64")
