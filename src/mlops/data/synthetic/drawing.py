"""Draws signs as they are printed in the sign catalogue, from the descriptions in the folder `signs`.

- `gtsrb.yaml` and `germany.yaml` say of which layers each sign consists, and list the versions that stand on the roads.
- `shapes/*.svg` are the outlines and pictograms. They open in every browser and vector editor.
- `glyphs.yaml` is the typeface, as centre lines (DIN 1451).

All coordinates are hundredths of the sign's side: (0, 0) is the top left corner, (100, 100) the bottom right one.
docs/how-to/add-a-sign.md explains how to add one.
"""

import functools
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar
from xml.etree import ElementTree

import resvg_py
import yaml
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from src.mlops.errors import DataError

# The colour names of the descriptions: RAL 9016, 9017, 7042, 3020, 5017, 1023, 6024 and 8002, slightly faded.
PALETTE = {
    "white": "#f4f4f2",
    "black": "#161618",
    "grey": "#8a8c8e",
    "red": "#c1141e",
    "blue": "#0c54a6",
    "yellow": "#f6b40e",
    "green": "#008e60",
    "brown": "#7a4a28",
}
SIGNS_FOLDER = Path(__file__).parent / "signs"
MAX_SIDE = 2048  # px
_SVG = "{http://www.w3.org/2000/svg}svg"
_VIEW_BOX = "0 0 100 100"
# `fill="red"` in a shape means the red of the palette.
_STYLE = "".join(f'[{use}="{name}"]{{{use}:{value}}}' for name, value in PALETTE.items() for use in ("fill", "stroke"))

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


class _Glyph(_Description):
    width: Annotated[float, Field(ge=0, le=200)]
    path: str


class _Font(_Description):
    stroke: Annotated[float, Field(gt=0, le=50)]
    glyphs: dict[str, _Glyph]


class Drawings:
    """The drawings of all described signs.

    Attributes:
        descriptions: The descriptions by number, in the order of the files.
    """

    def __init__(self, folder: Path) -> None:
        """Reads and checks all files.

        Args:
            folder: Folder with `*.yaml` and `shapes/*.svg`, such as `SIGNS_FOLDER`.

        Raises:
            DataError: A file is missing or malformed, a number is described twice, or a shape or glyph is missing.
        """
        self._shapes = {path.stem: _shape(path) for path in sorted((folder / "shapes").glob("*.svg"))}
        fonts = _read(folder / "glyphs.yaml")
        if not isinstance(fonts, dict):
            raise DataError(f"{folder / 'glyphs.yaml'} must have a key for each font.")
        self._fonts = {name: _parse(_Font, font, folder / "glyphs.yaml") for name, font in fonts.items()}
        found: list[tuple[Path, Description]] = []
        for path in (folder / "gtsrb.yaml", folder / "germany.yaml"):
            entries = _read(path)
            if not isinstance(entries, list):
                raise DataError(f"{path} must be a list with an entry for each sign.")
            found += [(path, _parse(Description, entry, path)) for entry in entries]
        counts = Counter(description.number for _, description in found)
        for path, description in found:
            if counts[description.number] > 1:
                raise DataError(f"Sign {description.number} is described more than once, the last time in {path}.")
        self.descriptions = {description.number: description for _, description in found}
        for path, description in found:
            self._require_complete(description, path)

    def versions(self, number: str) -> int:
        """Returns the number of versions of a sign that stand on the roads.

        Raises:
            DataError: The sign is not described.
        """
        return len(self._original(number)[0].drawings)

    def draw(self, number: str, version: int = 0, size: int = 128) -> Image.Image:
        """Draws one sign.

        Args:
            number: Number in the sign catalogue, for example `274-30`.
            version: 0 for the current version, then earlier ones.
            size: Side of the square image in px, 8 to 2048.

        Returns:
            An RGBA image of `size` x `size` px, transparent outside of the sign's outline. It is shared; copy it before
            painting on it.

        Raises:
            DataError: The sign or the version is not described, or the size is out of range.
        """
        if not 8 <= size <= MAX_SIDE:
            raise DataError(f"Cannot draw sign {number} with {size} px: the side must be 8 to {MAX_SIDE} px.")
        original, mirrored = self._original(number)
        if not 0 <= version < len(original.drawings):
            raise DataError(
                f"Sign {number} has no version {version}: it has {len(original.drawings)}, and the first is 0."
            )
        image = _render(self._svg(original.drawings[version]), size)
        return ImageOps.mirror(image) if mirrored else image

    def _original(self, number: str) -> tuple[Description, bool]:
        """Returns the description with the drawings, and whether they must be mirrored."""
        if number not in self.descriptions:
            raise DataError(
                f"Cannot draw sign {number!r}: it is not described in {SIGNS_FOLDER}. docs/how-to/add-a-sign.md explains "
                "how to add a sign."
            )
        description = self.descriptions[number]
        if description.mirrored:
            return self.descriptions[description.mirrored], True
        return description, False

    def _require_complete(self, description: Description, path: Path) -> None:
        where = f"Sign {description.number} in {path}"
        if description.mirrored and not self.descriptions.get(description.mirrored, description).drawings:
            raise DataError(f"{where} mirrors sign {description.mirrored}, which has no drawings.")
        for layer in (layer for drawing in description.drawings for layer in drawing):
            if layer.shape and layer.shape not in self._shapes:
                raise DataError(f"{where} has the shape {layer.shape!r}, but there is no shapes/{layer.shape}.svg.")
            if layer.text:
                font = self._fonts.get(layer.font)
                if font is None:
                    raise DataError(f"{where} has the font {layer.font!r}, which is not in glyphs.yaml.")
                if missing := [character for character in layer.text if character not in font.glyphs]:
                    raise DataError(
                        f"{where} has the text {layer.text!r}, but the font {layer.font!r} in glyphs.yaml has no glyph "
                        f"for {missing[0]!r}."
                    )

    def _svg(self, layers: list[Layer]) -> str:
        drawn = "".join(self._drawn(layer) for layer in layers)
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{_VIEW_BOX}"><style>{_STYLE}</style>{drawn}</svg>'

    def _drawn(self, layer: Layer) -> str:
        place = f"translate({layer.x} {layer.y}) rotate({layer.turn}) scale({-1 if layer.mirror else 1} 1)"
        colour = PALETTE[layer.colour]
        if layer.shape:
            move = f"{place} scale({layer.scale}) translate(-50 -50)"
            return f'<g transform="{move}" color="{colour}">{self._shapes[layer.shape]}</g>'
        font, text = self._fonts[layer.font], layer.text or ""
        glyphs = [font.glyphs[character] for character in text]
        width = sum(glyph.width for glyph in glyphs) + layer.spacing * (len(glyphs) - 1)
        start, paths = -width / 2, ""
        for glyph in glyphs:
            paths += f'<path d="{glyph.path}" transform="translate({start} -50)"/>'
            start += glyph.width + layer.spacing
        pen = f'fill="none" stroke-width="{font.stroke}" style="stroke:{colour}"'
        return f'<g transform="{place} scale({layer.height / 100})" {pen}>{paths}</g>'


@functools.cache
def drawings() -> Drawings:
    """Returns the drawings of this repository."""
    return Drawings(SIGNS_FOLDER)


@functools.lru_cache(maxsize=1024)
def _render(svg: str, size: int) -> Image.Image:
    return Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg, width=size, height=size))).convert("RGBA")


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


def _shape(path: Path) -> str:
    """Returns the elements of an SVG file without the `svg` element around them."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"Cannot read the shape {path}: {error}.") from error
    if root.tag != _SVG or root.get("viewBox") != _VIEW_BOX:
        raise DataError(f'{path} must be an SVG file with viewBox="{_VIEW_BOX}".')
    return "".join(ElementTree.tostring(element, encoding="unicode") for element in root)
