"""The reference of the configuration: keys, values and comments of the YAML files, types and ranges of the schema."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs_generator.markdown import cell
from src.mlops.config import CONFIG_DIR, Config
from src.mlops.io.markdown import table as markdown_table

_LINE = re.compile(r"^(?P<indent> *)(?P<key>[\w-]+|_target_):(?: +(?P<value>[^#]*?))?(?: +# (?P<comment>.*))?$")
TITLES = {  # folder of `configshydra` → title; the order of the page
    "data": "Data",
    "model": "Model",
    "training": "Training",
    "tracking": "Tracking",
    "hparams_search": "Hyperparameter search",
    "registry": "Registry",
    "gate": "Gate",
    "cloud": "Google Cloud",
    "classes": "Classes",
    "experiment": "Experiments",
}


def configuration() -> str:
    """Returns one section for each group of settings, with a table for each file."""
    schema = Config.model_json_schema()
    sections = [f"## General\n\n{_table(CONFIG_DIR / 'config.yaml', '', schema)}"]
    order = [*TITLES, *sorted({path.parent.name for path in CONFIG_DIR.glob("*/*.yaml")} - TITLES.keys())]
    for group in order:
        sections.append(f"## {TITLES.get(group, group)}\n")
        for path in sorted((CONFIG_DIR / group).glob("*.yaml"), key=lambda path: (not _is_default(path), path.name)):
            head = "" if _is_everywhere(path) else f"{group}."
            choice = f"`{group}={path.stem}`" + (" (default)" if _is_default(path) else "")
            sections.append(f"### {choice}\n\n{_purpose(path)}\n\n{_table(path, head, schema)}")
    return "\n".join(sections)


def _is_default(path: Path) -> bool:
    return f"\n  - {path.parent.name}: {path.stem} " in (CONFIG_DIR / "config.yaml").read_text(encoding="utf-8")


def _is_everywhere(path: Path) -> bool:
    return path.read_text(encoding="utf-8").startswith("# @package _global_")


def _purpose(path: Path) -> str:
    """Returns the comment at the top of a file."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.removeprefix("#").strip())
    return cell(" ".join(lines))


def _table(path: Path, head: str, schema: dict[str, Any]) -> str:
    rows = [
        [f"`{key}`", f"`{value}`" if value else "", cell(_type(key, schema)), cell(comment)]
        for key, value, comment in _entries(path, head)
    ]
    return markdown_table("key|value|type|meaning", rows) if rows else ""


def _entries(path: Path, head: str) -> Iterator[tuple[str, str, str]]:
    """Yields the key, the value and the comment of each setting in a file."""
    above: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        found = _LINE.match(line)
        if not found:
            continue
        indent, key = len(found["indent"]), found["key"]
        above = [entry for entry in above if entry[0] < indent]
        names = [*(name for _, name in above), key]
        above.append((indent, key))
        value, comment = (found["value"] or "").strip(), found["comment"] or ""
        if names[0] in ("defaults", "hydra") or not (value or comment):
            continue
        yield head + ".".join(names), value, comment


def _type(key: str, schema: dict[str, Any]) -> str:
    """Returns the type and range of a setting, such as `number, 0 to 1`; empty if the schema leaves it open."""
    place = schema
    for name in key.split("."):
        properties = _resolved(place, schema).get("properties", {})
        if name not in properties:
            return ""
        place = properties[name]
    return " or ".join(_described(option, schema) for option in place.get("anyOf", [place]))


def _resolved(place: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    for option in [place, *place.get("anyOf", [])]:
        if "$ref" in option:
            return dict(schema["$defs"][option["$ref"].rpartition("/")[2]])
    return place


def _described(place: dict[str, Any], schema: dict[str, Any]) -> str:
    if "enum" in place:
        return ", ".join(f"`{value}`" for value in place["enum"])
    if "const" in place:
        return f"`{place['const']}`"
    if "$ref" in place:
        return "section"
    kind = {"null": "null", "array": "list", "object": "mapping", "boolean": "true or false", "string": "text"}.get(
        place.get("type", ""), place.get("type", "")
    )
    if place.get("format") == "path":
        kind = "path"
    low, high = place.get("minimum"), place.get("maximum")
    above, below = place.get("exclusiveMinimum"), place.get("exclusiveMaximum")
    limits = [
        f"{low} or more" if low is not None and high is None and below is None else f"from {low}" * (low is not None),
        f"above {above}" * (above is not None),
        f"to {high}" * (high is not None),
        f"below {below}" * (below is not None),
    ]
    return ", ".join(filter(None, [kind, " ".join(filter(None, limits))]))
