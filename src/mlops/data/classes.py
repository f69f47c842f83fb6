"""The class list of a data set: what each class id stands for.

Preparing data writes the list to `classes.csv` in the prepared folder. Checkpoints and ONNX files contain it, so that
everything after the preparation reads it from there.
"""

import csv
import hashlib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from src.mlops.errors import DataError
from src.mlops.io.csv_text import read_csv_text

CLASSES_FILE = "classes.csv"
COLUMNS = ("id", "name", "number", "shape", "mirror")  # of `classes.csv`
MAX_NAME = 200  # characters
# `str.isprintable` would also refuse the joiners and spaces that many languages need.
_CONTROL = {"Cc", "Cs", "Zl", "Zp"}  # Unicode categories: control characters, surrogates, separators of lines
_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One class.

    Attributes:
        class_id: Position in the class list, from 0.
        name: Name of the class, in any language.
        number: Number in a catalogue, for example `274-20` in that of German traffic signs. None if there is none.
        shape: Family of classes with the same outline and colour. None if not known.
        mirror: Class of the horizontally mirrored image, or None if the mirrored image belongs to no class.
    """

    class_id: int
    name: str
    number: str | None = None
    shape: str | None = None
    mirror: int | None = None


class ClassList(tuple[ClassInfo, ...]):
    """The classes of a data set or a model, in the order of their ids."""

    __slots__ = ()

    def __new__(cls, classes: Iterable[ClassInfo]) -> Self:
        """Checks the classes.

        Raises:
            ValueError: There are fewer than two classes, ids have gaps or occur twice, names are not valid or not
                distinct, or mirrored classes contradict each other.
        """
        found = super().__new__(cls, classes)
        if len(found) < 2:
            raise ValueError(f"at least 2 classes are needed, but there {'is' if found else 'are'} {len(found)}")
        _require_consecutive([entry.class_id for entry in found])
        _require_distinct_names(found.names)
        _require_symmetric_mirrors(found)
        return found

    @classmethod
    def of_names(cls, names: Iterable[str]) -> Self:
        """Returns classes with these names. They are sorted naturally: 2 comes before 10.

        Raises:
            ValueError: There are fewer than two names, or names are not valid or not distinct.
        """
        return cls(ClassInfo(place, name) for place, name in enumerate(sorted(set(names), key=natural_order)))

    @classmethod
    def from_dicts(cls, entries: Iterable[Mapping[str, Any]]) -> Self:
        """Reads the list in a model file. Files of earlier releases have only `class_id`, `number` and `name`.

        Raises:
            KeyError, TypeError, ValueError: An entry has no `class_id` or `name`, or a value cannot be used.
        """
        return cls(ClassInfo(**{key: _plain(key, entry.get(key)) for key in _FIELDS}) for entry in entries)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Returns the list for a model file, as plain values."""
        return [asdict(entry) for entry in self]

    @property
    def names(self) -> list[str]:
        """Returns the names in the order of the ids."""
        return [entry.name for entry in self]

    @property
    def mirrors(self) -> list[int]:
        """Returns the class of each class's mirrored image; -1 if there is none."""
        return [-1 if entry.mirror is None else entry.mirror for entry in self]

    @property
    def fingerprint(self) -> str:
        """Returns 12 hex digits, which are equal for two lists with the same names in the same order."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:12]

    def difference(self, other: "ClassList") -> str | None:
        """Says how two lists differ in their names; None if images of the one can be compared with the other."""
        if self.names == other.names:
            return None
        if len(self) != len(other):
            return f"{len(self)} classes instead of {len(other)}"
        place = next(place for place in range(len(self)) if self[place].name != other[place].name)
        return f"class {place} is {self[place].name!r} instead of {other[place].name!r}"

    def starts_with(self, other: "ClassList") -> bool:
        """Returns whether its first classes have the names of all of another list.

        A model of this list can classify images of the other one. The ids of the classes are the same.
        """
        return other.difference_from_first(self) is None

    def difference_from_first(self, other: "ClassList") -> str | None:
        """Says how the names differ from those of the first classes of another list; None if they are the same."""
        if len(self) > len(other):
            return f"{len(self)} classes instead of {len(other)}"
        pairs = enumerate(zip(self.names, other.names, strict=False))
        wrong = (
            f"class {place} is {name!r} instead of {wanted!r}" for place, (name, wanted) in pairs if name != wanted
        )
        return next(wrong, None)

    def write(self, path: Path) -> None:
        """Writes `classes.csv`, which `read_classes` reads."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for entry in self:
                mirror = "" if entry.mirror is None else self[entry.mirror].name
                writer.writerow([entry.class_id, entry.name, entry.number or "", entry.shape or "", mirror])


_FIELDS = [field.name for field in fields(ClassInfo)]


def read_classes(path: Path) -> tuple[ClassList, dict[str, int] | None]:
    """Reads a `classes.csv`.

    It has one row per class and these columns, of which only `name` is required:

    - `id`: the class id; 0, 1, 2, … without gaps. Default: the order of the rows.
    - `name`: the name that people read.
    - `label`: how folders or CSV files call the class, such as `n01440764`. Default: the name or the id.
    - `number`: its number in a catalogue.
    - `shape`: its family of classes with the same outline and colour.
    - `mirror`: the name of the class that the mirrored image belongs to, which can be the class itself.

    Returns:
        The classes, and the class id of each label; None if there is no column `label`.

    Raises:
        DataError: The file cannot be read, or its content is not valid.
    """
    rows = _read_rows(path)
    try:
        ids = [_id(row, place) for place, row in enumerate(rows)]
        by_name = {row["name"]: class_id for row, class_id in zip(rows, ids, strict=True)}
        entries = [
            ClassInfo(
                class_id,
                row["name"],
                row.get("number") or None,
                row.get("shape") or None,
                _mirror(row, by_name),
            )
            for row, class_id in zip(rows, ids, strict=True)
        ]
        classes = ClassList(sorted(entries, key=lambda entry: entry.class_id))
        return classes, _labels(rows, ids) if rows and "label" in rows[0] else None
    except ValueError as error:
        raise DataError(f"{path} is not a valid class list: {error}.") from error


def natural_order(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Returns a sort key: numbers in names are compared by value, and letters without case and accents."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name.casefold()) if not unicodedata.combining(c))
    parts = re.findall(r"[0-9]+|[^0-9]+", plain)
    # Numbers are compared by their length first, because `int` refuses more than 4,300 digits.
    return [
        (False, len(part.lstrip("0")), part.lstrip("0")) if part.isdecimal() else (True, 0, part) for part in parts
    ], name


def _read_rows(path: Path) -> list[dict[str, str]]:
    text, separator = read_csv_text(path)
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    try:
        lines = [(reader.line_num, [value.strip() for value in values]) for values in reader]
    except csv.Error as error:
        raise DataError(f"Cannot read line {reader.line_num} of {path}: {error}.") from error
    # Spreadsheets write rows and columns that were cleared as empty ones.
    lines = [(number, values) for number, values in lines if any(values)]
    width = max((place + 1 for _, values in lines for place, value in enumerate(values) if value), default=0)
    columns = [column.lower() for column in lines[0][1][:width]] if lines else []
    known = {*COLUMNS, "label"}
    if "name" not in columns or not known.issuperset(columns) or len(set(columns)) < len(columns):
        found = f"its columns are {', '.join(map(repr, columns))}" if columns else "it is empty"
        raise DataError(
            f"{path} must have a column 'name', and can have {', '.join(sorted(known - {'name'}))}, but {found}."
        )
    for number, values in lines[1:]:
        if len(values[:width]) != len(columns):
            raise DataError(
                f"Line {number} of {path} has {len(values)} values, but must have {len(columns)}, one for each column."
            )
    return [
        {name: unicodedata.normalize("NFC", value) for name, value in zip(columns, values, strict=False)}
        for _, values in lines[1:]
    ]


def _id(row: Mapping[str, str], place: int) -> int:
    if "id" not in row:
        return place
    if not (row["id"].isascii() and row["id"].isdecimal() and len(row["id"]) < 10):
        raise ValueError(f"the id of {row['name']!r} must be a whole number, but is {row['id'][:20]!r}")
    return int(row["id"])


def _mirror(row: Mapping[str, str], by_name: Mapping[str, int]) -> int | None:
    name = row.get("mirror")
    if not name:
        return None
    if name not in by_name:
        raise ValueError(f"the mirrored class of {row['name']!r} must be the name of a class, but is {name!r}")
    return by_name[name]


def _labels(rows: list[dict[str, str]], ids: list[int]) -> dict[str, int]:
    labels = [row["label"] or row["name"] for row in rows]
    if repeated := [label for label, count in Counter(labels).items() if count > 1]:
        raise ValueError(f"the label {repeated[0]!r} occurs more than once")
    return dict(zip(labels, ids, strict=True))


def _plain(key: str, value: object) -> Any:
    """Checks the type of one value in the class list of a model file."""
    if key == "class_id" or (key == "mirror" and value is not None):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{key} must be a whole number, but is {value!r}")
    elif not (isinstance(value, str) or (value is None and key != "name")):
        raise TypeError(f"{key} must be a text, but is {value!r}")
    return value


def _require_consecutive(ids: list[int]) -> None:
    if repeated := [class_id for class_id, count in Counter(ids).items() if count > 1]:
        raise ValueError(f"the class id {repeated[0]} occurs more than once")
    if missing := sorted(set(range(len(ids))) - set(ids)):
        raise ValueError(f"class ids must be 0, 1, 2, … without gaps, but class {missing[0]} is missing")
    if ids != sorted(ids):
        raise ValueError("classes must be in the order of their ids")


def _require_symmetric_mirrors(classes: ClassList) -> None:
    for entry in classes:
        if entry.mirror is None:
            continue
        if not 0 <= entry.mirror < len(classes):
            raise ValueError(f"the mirrored class of {entry.name!r} must be a class, but is {entry.mirror}")
        other = classes[entry.mirror]
        if other.mirror not in {None, entry.class_id}:
            raise ValueError(
                f"the mirrored class of {entry.name!r} is {other.name!r}, so that of {other.name!r} must be "
                f"{entry.name!r}, but is {classes.names[other.mirror]!r}"
            )


def _require_distinct_names(names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        # Case and Unicode forms are not distinguished, because file systems of macOS and Windows do not.
        folded = _visible(unicodedata.normalize("NFKC", name).casefold())
        if not folded or name != name.strip() or len(name) > MAX_NAME or any(map(_is_control, name)):
            raise ValueError(
                f"a name must have 1 to {MAX_NAME} characters, without spaces around it and without line breaks or "
                f"other control characters, but one is {name[: MAX_NAME + 1]!r}"
            )
        if folded in seen:
            same = f"the name {name!r} occurs more than once"
            alike = f"the names {seen[folded]!r} and {name!r} differ only in case or Unicode form"
            raise ValueError(same if seen[folded] == name else alike)
        seen[folded] = name


def _visible(name: str) -> str:
    """Removes characters that only join or separate others, such as those in Persian words and in emoji."""
    return "".join(character for character in name if unicodedata.category(character) != "Cf")


def _is_control(character: str) -> bool:
    """Returns whether a character breaks a line or changes the direction of the text around it."""
    return unicodedata.category(character) in _CONTROL or unicodedata.bidirectional(character) in _DIRECTIONS
