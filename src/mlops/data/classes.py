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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from src.mlops.errors import DataError
from src.mlops.io.csv_text import read_csv_text

CLASSES_FILE = "classes.csv"
COLUMNS = ("id", "name", "number", "shape", "mirror")  # of `classes.csv`
MAX_NAME = 200  # characters


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
            ValueError: There are fewer than two classes, ids have gaps, or names are empty or cannot be told apart.
        """
        found = super().__new__(cls, classes)
        if len(found) < 2:
            raise ValueError(f"at least 2 classes are needed, but there {'is' if found else 'are'} {len(found)}")
        for position, entry in enumerate(found):
            if entry.class_id != position:
                raise ValueError(f"class ids must be 0, 1, 2, … without gaps, but class {position} is missing")
            if entry.mirror is not None and not 0 <= entry.mirror < len(found):
                raise ValueError(f"the mirrored class of {entry.name!r} must be a class, but is {entry.mirror}")
        _require_distinct_names(found.names)
        return found

    @classmethod
    def of_names(cls, names: Iterable[str]) -> Self:
        """Returns classes with these names. They are sorted naturally: 2 comes before 10.

        Raises:
            ValueError: There are fewer than two names, or names are empty or cannot be told apart.
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
    def numbered(self) -> bool:
        """Returns whether classes have numbers in a catalogue."""
        return any(entry.number for entry in self)

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

    def write(self, path: Path) -> None:
        """Writes `classes.csv`, which `read_classes` reads."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for entry in self:
                mirror = "" if entry.mirror is None else self[entry.mirror].name
                writer.writerow([entry.class_id, entry.name, entry.number or "", entry.shape or "", mirror])


_FIELDS = ("class_id", "name", "number", "shape", "mirror")


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
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts], name


def _read_rows(path: Path) -> list[dict[str, str]]:
    text, separator = read_csv_text(path)
    reader = csv.DictReader(io.StringIO(text), delimiter=separator)
    columns = [(name or "").strip() for name in reader.fieldnames or []]
    known = {*COLUMNS, "label"}
    if "name" not in columns or not known.issuperset(columns) or len(set(columns)) < len(columns):
        raise DataError(
            f"{path} must have the column name, and can have {', '.join(sorted(known - {'name'}))}, but its first line "
            f"is {text.partition(chr(10))[0].strip()!r}."
        )
    reader.fieldnames = columns
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise DataError(f"Line {reader.line_num} of {path} must have {len(columns)} values, one for each column.")
        rows.append({column: unicodedata.normalize("NFC", value.strip()) for column, value in row.items()})
    return rows


def _id(row: Mapping[str, str], place: int) -> int:
    if "id" not in row:
        return place
    if not (row["id"].isascii() and row["id"].isdecimal()):
        raise ValueError(f"the id in line {place + 2} must be a whole number, but is {row['id']!r}")
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


def _require_distinct_names(names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if not name.strip() or name != name.strip() or len(name) > MAX_NAME or not name.isprintable():
            raise ValueError(
                f"a name must have 1 to {MAX_NAME} printable characters, without spaces around it, but one is {name!r}"
            )
        # Case and Unicode forms are not distinguished, because file systems of macOS and Windows do not.
        folded = unicodedata.normalize("NFKC", name).casefold()
        if folded in seen:
            same = f"the name {name!r} occurs more than once"
            alike = f"the names {seen[folded]!r} and {name!r} differ only in case or Unicode form"
            raise ValueError(same if seen[folded] == name else alike)
        seen[folded] = name
