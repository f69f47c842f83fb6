"""Tests class lists: which names are possible, and how `classes.csv` is read."""

from pathlib import Path

import pytest

from src.mlops.data.classes import ClassInfo, ClassList, natural_order, read_classes
from src.mlops.errors import DataError

NAMES = [
    *("007", "7", "1e3", "None", "nan", "true", "train", "$HOME", "%s", "*", "=1+1", "-rf", "<b>", "a,b;c", "a'b"),
    *('q"x', "a|b", "{x}", "عبور", "می\u200cشود", "日本\u3000語", "10\u00a0km", "😀", "👨\u200d👩\u200d👧", "x" * 200),
]


def written(folder: Path, text: str) -> Path:
    path = folder / "classes.csv"
    path.write_bytes(text.encode())
    return path


def test_any_name_survives_the_file(tmp_path: Path) -> None:
    classes = ClassList.of_names(NAMES)
    classes.write(tmp_path / "classes.csv")
    assert read_classes(tmp_path / "classes.csv")[0] == classes
    assert ClassList.from_dicts(classes.to_dicts()) == classes
    assert set(classes.names) == set(NAMES)


@pytest.mark.parametrize(
    "name", ["", " ", " a", "a\u00a0", "a\nb", "a\tb", "a\0", "a\u2028b", "\u200d", "\u202ea", "x" * 201]
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a name must have 1 to 200 characters"):
        ClassList([ClassInfo(0, name), ClassInfo(1, "b")])


@pytest.mark.parametrize(("one", "other"), [("Stop", "stop"), ("ﬁne", "fine"), ("می\u200cشود", "میشود")])
def test_names_that_look_the_same(one: str, other: str) -> None:
    with pytest.raises(ValueError, match="differ only in case or Unicode form"):
        ClassList([ClassInfo(0, one), ClassInfo(1, other)])


def test_natural_order() -> None:
    huge = "9" * 5000
    ordered = ["0", "00", "2", "007", "7", "10", huge, "a2", "a10", "Über", "Zug"]
    assert sorted(sorted(ordered), key=natural_order) == ordered


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "lines", [["name", "a", "b"], ["name,,", "a,,", ",,", "b,,", ",,"], ["Name,NUMBER", "a,", "", "b,"]]
)
def test_spreadsheets_write_the_same_list_in_several_ways(tmp_path: Path, lines: list[str], end: str) -> None:
    assert read_classes(written(tmp_path, end.join([*lines, ""])))[0].names == ["a", "b"]


def test_mirrored_classes_must_not_contradict_each_other(tmp_path: Path) -> None:
    read_classes(written(tmp_path, "name,mirror\na,b\nb,\n"))
    with pytest.raises(DataError, match=r"mirrored class of 'a' is 'b', so that of 'b' must be 'a', but is 'b'"):
        read_classes(written(tmp_path, "name,mirror\na,b\nb,b\n"))
