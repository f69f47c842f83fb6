"""The descriptions of the signs: of which layers each consists, and the typeface.

`gtsrb.yaml` and `germany.yaml` in the folder `signs` describe the signs, `glyphs.yaml` the typeface (DIN 1451).
docs/how-to/add-a-sign.md explains how to add a sign.
"""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from src.mlops.data.gtsrb import SIGNS
from src.mlops.errors import DataError, shorten
from src.mlops.errors import describe as explain

# The colours of the signs: RAL 9016, 9017, 7042, 3020, 5017, 1023, 6024 and 8002, slightly faded. Each name is also a
# colour of CSS, so browsers and vector editors show the shapes in similar colours.
PALETTE = {
    "white": "#f4f4f2",
    "black": "#161618",
    "grey": "#747678",
    "red": "#c1141e",
    "blue": "#0c54a6",
    "yellow": "#f6b40e",
    "wheat": "#ead7a0",  # yellow that the sun has bleached
    "green": "#008e60",
    "brown": "#7a4a28",
}
PATH_DATA = r"\s*[Mm][MLHVCSQTAZmlhvcsqtaz0-9\s.,+-]*"
GLYPHS = "glyphs.yaml"
_GTSRB, _FURTHER = "gtsrb.yaml", "germany.yaml"
_Model = TypeVar("_Model", bound=BaseModel)
_ONLY_SHAPE, _ONLY_TEXT = {"scale"}, {"font", "height", "spacing"}


def _require_text(value: object) -> object:
    """Rejects what YAML takes for a number, a date or a Boolean: it reads 325.10 as 325.1, and 010 as 8."""
    if value is None or isinstance(value, str | list | dict):
        return value
    raise ValueError(f"the value must be in quotes, because without them YAML reads it as {value}")


def _require_layers(value: object) -> object:
    if isinstance(value, list) and value:
        return value
    raise ValueError(f"a drawing must be a list of layers, such as [red_circle, car], but is {shorten(value)}")


Text = Annotated[str, BeforeValidator(_require_text)]
Coordinate = Annotated[float, Field(ge=-100, le=200)]


class _Description(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Layer(_Description):
    """A shape or a text on a sign.

    Attributes:
        shape: Name of a file in `shapes`, without `.svg`.
        text: The text, if the layer is not a shape.
        font: Key in `glyphs.yaml`.
        height: Height of the capital letters.
        spacing: Gap between two letters, in hundredths of the height.
        colour: Name in the palette; for a shape, it replaces `currentColor`.
        x: Horizontal position of the centre.
        y: Vertical position of the centre.
        scale: Size of a shape; 1 fills the sign.
        turn: Clockwise rotation in degrees.
        mirror: Mirror it horizontally.
    """

    shape: Annotated[Text | None, Field(min_length=1)] = None
    text: Annotated[Text | None, Field(min_length=1, max_length=16)] = None
    font: Text = "wide"
    height: Annotated[float, Field(gt=0, le=100)] = 38.0
    spacing: Annotated[float, Field(ge=-50, le=100)] = 14.0
    colour: str = "black"
    x: Coordinate = 50.0
    y: Coordinate = 50.0
    scale: Annotated[float, Field(gt=0, le=4)] = 1.0
    turn: Annotated[float, Field(ge=-360, le=360)] = 0.0
    mirror: bool = False

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        if isinstance(value, str):
            return {"shape": value}
        if isinstance(value, Mapping):
            return value
        raise ValueError(f"a layer must be the name of a shape, or have shape or text, but is {shorten(value)}")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.shape is None) == (self.text is None):
            raise ValueError("a layer needs either shape or text")
        kind, unused = ("text", _ONLY_SHAPE) if self.text else ("shape", _ONLY_TEXT)
        if wrong := sorted(unused & self.model_fields_set):
            raise ValueError(f"a layer with {kind} cannot have {wrong[0]}")
        if self.colour not in PALETTE:
            raise ValueError(f"colour must be one of {', '.join(PALETTE)}, but is {self.colour!r}")
        return self


class Description(_Description):
    """How one sign looks.

    Attributes:
        number: Number in the sign catalogue.
        name: Name of the class. None for the signs of GTSRB, whose names are in `data/gtsrb.py`.
        drawings: The versions of the sign, newest first; each is a list of layers, the lowest first.
        mirrored: Number of the sign of which this one is the mirror image, instead of drawings.
        symmetric: Whether the mirror image of the sign is the same sign. False for those of GTSRB, as for `name`.
    """

    number: Annotated[Text, Field(pattern=r"^\S+$")]
    name: Text | None = None
    drawings: list[Annotated[list[Layer], BeforeValidator(_require_layers)]] = []
    mirrored: Text | None = None
    symmetric: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.drawings) == bool(self.mirrored):
            raise ValueError("a sign needs either drawings or mirrored")
        if self.mirrored and self.symmetric:
            raise ValueError("a sign cannot be symmetric and the mirror image of another one")
        return self


class Glyph(_Description):
    """A character.

    Attributes:
        width: Its width, in hundredths of the height of the capital letters.
        path: Its centre lines, as SVG path data.
    """

    width: Annotated[float, Field(ge=0, le=200)]
    path: Annotated[str, Field(pattern=f"^({PATH_DATA})?$")]  # a space has none


class Font(_Description):
    """A typeface.

    Attributes:
        stroke: Width of its lines, in hundredths of the height of the capital letters.
        glyphs: Its characters.
    """

    stroke: Annotated[float, Field(gt=0, le=50)]
    glyphs: dict[Text, Glyph]


def read_descriptions(folder: Path) -> dict[str, Description]:
    """Reads the descriptions of all signs.

    Args:
        folder: Folder with `gtsrb.yaml` and `germany.yaml`.

    Returns:
        The descriptions by number, in the order of the files.

    Raises:
        DataError: A file is missing or malformed, a number is described twice, a sign of GTSRB is missing or described
            in the wrong file, or a mirrored sign is not valid.
    """
    found: dict[str, Description] = {}
    names = {sign.number: sign.name for sign in SIGNS}
    for path in (folder / _GTSRB, folder / _FURTHER):
        for one in _read_list(path):
            if one.number in found:
                raise DataError(f"{path}: sign {one.number} is described again. Keep one entry, with all its drawings.")
            if path.name == _GTSRB and (one.number not in names or one.name or one.symmetric):
                raise DataError(
                    f"{path}: sign {one.number} must be one of GTSRB, without name and symmetric, which are in "
                    f"src/mlops/data/gtsrb.py. Describe further signs in {_FURTHER}."
                )
            if path.name == _FURTHER and not one.name:
                raise DataError(f"{path}: sign {one.number} needs a name.")
            found[one.number] = one
    if missing := [number for number in names if number not in found]:
        raise DataError(f"{folder / _GTSRB} must describe all signs of GTSRB, but sign {missing[0]} is missing.")
    _check_mirrored(found, folder)
    return found


def read_fonts(folder: Path) -> dict[str, Font]:
    """Reads `glyphs.yaml`.

    Raises:
        DataError: The file is missing or malformed.
    """
    path = folder / GLYPHS
    fonts = _read(path)
    if not isinstance(fonts, dict):
        raise DataError(f"{path} must have a key for each font.")
    return {str(name): _parse(Font, font, f"{path}: the font {name!r}") for name, font in fonts.items()}


def _read_list(path: Path) -> list[Description]:
    entries = _read(path)
    if not isinstance(entries, list):
        raise DataError(f"{path} must be a list with one entry for each sign.")
    found = []
    for place, entry in enumerate(entries, 1):
        if not isinstance(entry, Mapping):
            raise DataError(
                f"{path}: entry {place} must have the keys number, name and drawings, but is {shorten(entry)}."
            )
        number = entry.get("number")
        which = f"sign {number}" if isinstance(number, str) else f"entry {place}"
        found.append(_parse(Description, entry, f"{path}: {which}"))
    return found


def _check_mirrored(found: Mapping[str, Description], folder: Path) -> None:
    mirrors: dict[str, str] = {}
    symmetric = {sign.number for sign in SIGNS if sign.mirror == sign.class_id}
    for number, one in found.items():
        if not one.mirrored:
            continue
        original = found.get(one.mirrored)
        where = f"{folder}: sign {number} mirrors sign {one.mirrored}"
        if original is None or not original.drawings:
            raise DataError(f"{where}, which {'has no drawings' if original else 'is not described'}.")
        if original.symmetric or one.mirrored in symmetric:
            raise DataError(f"{where}, which is symmetric. Remove mirrored or symmetric.")
        if one.mirrored in mirrors:
            raise DataError(f"{where}, but so does sign {mirrors[one.mirrored]}. Only one of them can.")
        mirrors[one.mirrored] = number


class _Loader(yaml.SafeLoader):
    """Rejects a key that occurs twice, of which YAML would silently use the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if key.value in keys[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} occurs twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - based on SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise DataError(f"Cannot read {path}: {line}{error.problem}.") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"Cannot read {path}: {error}.") from error


def _parse(model: type[_Model], values: object, what: str) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(map(_in_words, explain(error)))
        raise DataError(f"{what} is not valid: {faults}.") from error


def _in_words(fault: str) -> str:
    """Replaces a place such as `drawings.0.1.scale` by words."""
    fault = re.sub(r"^drawings\.(\d+)\.(\d+)", r"version \1, layer \2", fault)
    fault = re.sub(r"^(version \d+, layer \d+)\.", r"\1, ", fault)
    return re.sub(r"^drawings\.(\d+)", r"version \1", fault)
