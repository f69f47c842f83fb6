"""Draws signs as they are printed in the sign catalogue, from the descriptions in the folder `signs`.

The layers of a sign are composed to one SVG, which resvg renders. The outlines and pictograms are `signs/shapes/*.svg`,
which every browser and vector editor opens. All coordinates are hundredths of the sign's side: (0, 0) is the top left
corner, (100, 100) the bottom right one.
"""

import functools
import io
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import resvg_py
from PIL import Image, ImageOps

from src.mlops.data.classes import ClassInfo, ClassList
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.synthetic.description import GLYPHS, PALETTE, Description, Layer, read_descriptions, read_fonts
from src.mlops.errors import DataError

SIGNS_FOLDER = Path(__file__).parent / "signs"
MAX_SIDE = 2048  # px
_SVG = "{http://www.w3.org/2000/svg}svg"
_VIEW_BOX = "0 0 100 100"
# `fill="red"` in a shape means the red of the palette.
_STYLE = "".join(f'[{use}="{name}"]{{{use}:{value}}}' for name, value in PALETTE.items() for use in ("fill", "stroke"))


def draw_sign(sign: ClassInfo, version: int = 0, size: int = 128) -> Image.Image:
    """Draws the sign of a class.

    Args:
        sign: The class. Its number is looked up in the descriptions.
        version: 0 for the current version of the sign, then earlier ones.
        size: Side of the square image in px, 8 to 2048.

    Returns:
        An RGBA image of `size` x `size` px, transparent outside of the sign's outline.

    Raises:
        DataError: The class has no number, its sign is not described or has no such version, or the size is out of
            range.
    """
    return drawings().draw(sign.number, version, size).copy()  # a copy, because callers may paint on the image


def german_signs() -> ClassList:
    """Returns the classes of GTSRB, with their ids, and further German signs.

    Raises:
        DataError: The descriptions are malformed.
    """
    descriptions = drawings().descriptions
    numbers = [*(sign.number for sign in SIGNS), *(number for number, one in descriptions.items() if one.name)]
    ids = {number: class_id for class_id, number in enumerate(numbers)}
    mirrors = {ids[one.mirrored]: ids[number] for number, one in descriptions.items() if one.mirrored}
    mirrors |= {mirrored: original for original, mirrored in mirrors.items()}
    classes = [replace(sign, mirror=mirrors.get(sign.class_id, sign.mirror)) for sign in SIGNS]
    for number, one in descriptions.items():
        if one.name:
            class_id = ids[number]
            mirror = class_id if one.symmetric else mirrors.get(class_id)
            classes.append(ClassInfo(class_id, one.name, number, drawings().outline(number), mirror))
    return ClassList(classes)


@functools.cache
def drawings() -> "Drawings":
    """Returns the drawings of this repository."""
    return Drawings(SIGNS_FOLDER)


class Drawings:
    """The drawings of all described signs.

    Attributes:
        descriptions: The descriptions by number.
    """

    def __init__(self, folder: Path) -> None:
        """Reads and checks all files.

        Args:
            folder: Folder with the descriptions and `shapes/*.svg`, such as `SIGNS_FOLDER`.

        Raises:
            DataError: A file is missing or malformed, or a sign has a shape, font or character that does not exist.
        """
        self.descriptions = read_descriptions(folder)
        self._fonts = read_fonts(folder)
        self._shapes = {path.stem: _shape(path) for path in sorted((folder / "shapes").glob("*.svg"))}
        for description in self.descriptions.values():
            for layer in (layer for drawing in description.drawings for layer in drawing):
                self._require_known(layer, f"Sign {description.number} in {folder}")

    def versions(self, number: str | None) -> int:
        """Returns the number of versions of a sign that stand on the roads.

        Raises:
            DataError: The sign is not described.
        """
        return len(self._original(number)[0].drawings)

    def outline(self, number: str) -> str | None:
        """Returns the name of the lowest shape of a sign, which signs with the same outline and colour share."""
        return self._original(number)[0].drawings[0][0].shape

    def draw(self, number: str | None, version: int = 0, size: int = 128) -> Image.Image:
        """Draws one sign, see `draw_sign`. The image is shared; it must be copied before painting on it."""
        original, mirrored = self._original(number)
        if not 8 <= size <= MAX_SIDE:
            raise DataError(f"Cannot draw sign {number} with {size} px: the side must be 8 to {MAX_SIDE} px.")
        if not 0 <= version < len(original.drawings):
            raise DataError(
                f"Sign {number} has no version {version}: versions are numbered from 0 to {len(original.drawings) - 1}."
            )
        image = _render(self._svg(original.drawings[version]), size)
        return ImageOps.mirror(image) if mirrored else image

    def _original(self, number: str | None) -> tuple[Description, bool]:
        """Returns the description that has the drawings, and whether they must be mirrored."""
        description = self.descriptions.get(number or "")
        if description is None:
            raise DataError(
                f"Cannot draw the sign with the number {number!r}, because no file in {SIGNS_FOLDER} describes it. "
                "docs/how-to/add-a-sign.md explains how to add a sign."
            )
        if description.mirrored:
            return self.descriptions[description.mirrored], True
        return description, False

    def _require_known(self, layer: Layer, where: str) -> None:
        if layer.shape and layer.shape not in self._shapes:
            raise DataError(f"{where} has the shape {layer.shape!r}, but there is no shapes/{layer.shape}.svg.")
        if layer.text and layer.font not in self._fonts:
            raise DataError(f"{where} has the font {layer.font!r}; {GLYPHS} has {', '.join(self._fonts)}.")
        if missing := [character for character in layer.text or "" if character not in self._fonts[layer.font].glyphs]:
            raise DataError(
                f"{where} has the text {layer.text!r}, but the font {layer.font!r} has no glyph for {missing[0]!r}. "
                f"Add it to {GLYPHS}."
            )

    def _svg(self, layers: list[Layer]) -> str:
        drawn = "".join(self._draw_layer(layer) for layer in layers)
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{_VIEW_BOX}"><style>{_STYLE}</style>{drawn}</svg>'

    def _draw_layer(self, layer: Layer) -> str:
        place = f"translate({layer.x} {layer.y}) rotate({layer.turn}) scale({-1 if layer.mirror else 1} 1)"
        colour = PALETTE[layer.colour]
        if layer.shape:
            move = f"{place} scale({layer.scale}) translate(-50 -50)"
            return f'<g transform="{move}" color="{colour}">{self._shapes[layer.shape]}</g>'
        font = self._fonts[layer.font]
        glyphs = [font.glyphs[character] for character in layer.text or ""]
        width = sum(glyph.width for glyph in glyphs) + layer.spacing * (len(glyphs) - 1)
        start, paths = -width / 2, ""
        for glyph in glyphs:
            paths += f'<path d="{glyph.path}" transform="translate({start} -50)"/>'
            start += glyph.width + layer.spacing
        pen = f'fill="none" stroke-width="{font.stroke}" style="stroke:{colour}"'
        return f'<g transform="{place} scale({layer.height / 100})" {pen}>{paths}</g>'


@functools.lru_cache(maxsize=1024)
def _render(svg: str, size: int) -> Image.Image:
    return Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg, width=size, height=size))).convert("RGBA")


def _shape(path: Path) -> str:
    """Returns the elements of an SVG file without the `svg` element around them."""
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314 - a file of this repository
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"Cannot read the shape {path}: {error}.") from error
    if root.tag != _SVG or root.get("viewBox") != _VIEW_BOX:
        raise DataError(f'{path} must be an SVG file with viewBox="{_VIEW_BOX}".')
    return "".join(ElementTree.tostring(element, encoding="unicode") for element in root)
