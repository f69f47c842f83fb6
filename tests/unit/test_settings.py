"""The ranges in the comments of configshydra/ match the schema."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from src.mlops.config import CONFIG_DIR, Config

GLOBAL = {"config.yaml", "pipeline.yaml"}  # files with the keys of the complete schema; other folders are sections
FREE = {
    "model",
    "training.optimizer",
    "hparams_search.space",
    "hydra",
    "defaults",
}  # keys without a schema
NUMBER = r"-?\d+(?:\.\d+)?"
STATED = re.compile(
    rf"above {NUMBER}(?: and below {NUMBER}|, below {NUMBER})?|{NUMBER} to (?:below )?{NUMBER}(?! \d)|{NUMBER} or more"
)


def rendered(field: FieldInfo) -> str:
    """Returns the range of a field in words."""
    bounds: dict[str, Any] = {}
    for constraint in field.metadata:
        for name in ("ge", "gt", "le", "lt"):
            if (bound := getattr(constraint, name, None)) is not None:
                bounds[name] = f"{bound:.10g}"
    match bounds:
        case {"ge": low, "le": high}:
            return f"{low} to {high}"
        case {"ge": low, "lt": high}:
            return f"{low} to below {high}"
        case {"gt": low, "lt": high}:
            return f"above {low}, below {high}"
        case {"ge": low}:
            return f"{low} or more"
        case {"gt": low}:
            return f"above {low}"
    if get_origin(field.annotation) is Literal:
        *choices, last = map(str, get_args(field.annotation))
        return f"{', '.join(choices)} or {last}" if choices else ""
    return ""


def fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        inner = next((kind for kind in (field.annotation, *get_args(field.annotation)) if is_section(kind)), None)
        if inner:
            yield from fields(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def comments() -> Iterator[tuple[Path, str, str]]:
    """Yields file, dotted key and comment of each setting with a comment."""
    for path in sorted(CONFIG_DIR.rglob("*.yaml")):
        section = "" if path.name in GLOBAL or "@package _global_" in path.read_text() else f"{path.parent.name}."
        parents: list[tuple[int, str]] = []
        for line in path.read_text().splitlines():
            found = re.match(r"( *)([\w_]+):(?: |$)", line)
            if not found:
                continue
            indent = len(found[1])
            parents = [(depth, name) for depth, name in parents if depth < indent]
            key = section + ".".join([*(name for _, name in parents), found[2]])
            parents.append((indent, found[2]))
            if not any(key == free or key.startswith(f"{free}.") for free in FREE):
                yield path, key, line.partition(" # ")[2]


SCHEMA = dict(fields(Config))
COMMENTS = list(comments())


def test_every_range_is_in_a_comment() -> None:
    for key, field in SCHEMA.items():
        wanted = rendered(field)
        # A section that is used in two places is explained in one of them.
        found = [comment for _, other, comment in COMMENTS if SCHEMA.get(other) is field]
        if wanted and not any(key.startswith(f"{free}.") for free in FREE):
            assert any(wanted in comment for comment in found), f"{key}: no comment of {found} states {wanted!r}"


@pytest.mark.parametrize(("path", "key", "comment"), [entry for entry in COMMENTS if STATED.search(entry[2])])
def test_no_comment_states_another_range(path: Path, key: str, comment: str) -> None:
    if key in SCHEMA and rendered(SCHEMA[key]):
        assert set(STATED.findall(comment)) <= {rendered(SCHEMA[key])}, f"{path.name}: {key}"
