"""The descriptions of the signs: of which layers each consists, and the typeface.

`gtsrb.yaml` and `germany.yaml` in the folder `signs` describe the signs, `glyphs.yaml` the typeface (DIN 1451).
docs/how-to/add-a-sign.md explains how to add a sign.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from src.mlops.errors import DataError

# The colours of the signs: RAL 9016, 9017, 7042, 3020, 5017, 1023, 6024 and 8002, slightly faded.
PALETTE = {
    "white": "#f4f4f2",
    "black": "#161618",
    "grey": "#747678",
    "red": "#c1141e",
    "blue": "#0c54a6",
    "yellow": "#f6b40e",
    "green": "#008e60",
    "brown": "#7a4a28",
}
GLYPHS = "glyphs.yaml"
_FILES = ("gtsrb.yaml", "germany.yaml")
_Model = TypeVar("_Model", bound=BaseModel)
Coordinate = Annotated[float, Field(ge=-100, le=200)]


class _Description(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Layer(_Description):
    """A shape or a text on a sign.

    Attributes:
        shape: Name of a file in `shapes`, without `.svg`.
        text: The text, if the layer is not a shape.
        font: Key in `glyphs.yaml`.
        height: Height of the capital letters.
        spacing: Gap between two letters, in hundredths of the height.
        colour: Name in the palette; for a shape, it replaces `currentColor`.
        x: Place of the middle.
        y: Place of the middle.
        scale: Size of a shape; 1 fills the sign.
        turn: Clockwise rotation in degrees.
        mirror: Mirror it horizontally.
    """

    shape: str | None = None
    text: str | None = Field(None, min_length=1, max_length=16)
    font: str = "wide"
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
        return {"shape": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.shape is None) == (self.text is None):
            raise ValueError("a layer needs either shape or text")
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
        symmetric: Whether the mirror image of the sign is the same sign.
    """

    number: str = Field(min_length=1)
    name: str | None = None
    drawings: list[Annotated[list[Layer], Field(min_length=1)]] = []
    mirrored: str | None = None
    symmetric: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.drawings) == bool(self.mirrored):
            raise ValueError("a sign needs either drawings or mirrored")
        return self


class Glyph(_Description):
    """A character.

    Attributes:
        width: Its width, in hundredths of the height of the capital letters.
        path: Its centre lines, as SVG path data.
    """

    width: Annotated[float, Field(ge=0, le=200)]
    path: str


class Font(_Description):
    """A typeface.

    Attributes:
        stroke: Width of its lines, in hundredths of the height of the capital letters.
        glyphs: Its characters.
    """

    stroke: Annotated[float, Field(gt=0, le=50)]
    glyphs: dict[str, Glyph]


def read_descriptions(folder: Path) -> dict[str, Description]:
    """Reads the descriptions of all signs.

    Args:
        folder: Folder with `gtsrb.yaml` and `germany.yaml`.

    Returns:
        The descriptions by number, in the order of the files.

    Raises:
        DataError: A file is missing or malformed, a number is described twice, or a sign mirrors an unknown one.
    """
    found: dict[str, Description] = {}
    for path in (folder / name for name in _FILES):
        entries = _read(path)
        if not isinstance(entries, list):
            raise DataError(f"{path} must be a list with one entry for each sign.")
        descriptions = [_parse(Description, entry, path) for entry in entries]
        counts = Counter([*found, *(description.number for description in descriptions)])
        if repeated := [number for number, count in counts.items() if count > 1]:
            raise DataError(f"{path} describes sign {repeated[0]} again. Keep one entry and add its drawings there.")
        found |= {description.number: description for description in descriptions}
    for description in found.values():
        if description.mirrored and not (description.mirrored in found and found[description.mirrored].drawings):
            raise DataError(
                f"Sign {description.number} in {folder} mirrors sign {description.mirrored}, which has no drawings."
            )
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
    return {str(name): _parse(Font, font, path) for name, font in fonts.items()}


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"Cannot read the descriptions of signs in {path}: {error}.") from error


def _parse(model: type[_Model], values: object, path: Path) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = values.get("number") or values.get("name") if isinstance(values, Mapping) else None
        where = " -> ".join(map(str, first["loc"]))
        raise DataError(f"{path}: the entry {name or values!r} is not valid: {where}: {first['msg']}.") from error
