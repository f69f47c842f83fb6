"""Draws signs as they are printed in the sign catalogue, from the descriptions in the folder `signs`.

The layers of a sign are composed to one SVG, which resvg renders. The outlines and pictograms are `signs/shapes/*.svg`,
which every browser and vector editor opens. All coordinates are hundredths of the sign's side: (0, 0) is the top left
corner, (100, 100) the bottom right one.
"""

import functools
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import resvg_py
from PIL import Image, ImageOps

from src.mlops.data.classes import ClassInfo, ClassList
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.synthetic.description import (
    GLYPHS,
    PALETTE,
    PATH_DATA,
    Description,
    Layer,
    read_descriptions,
    read_fonts,
)
from src.mlops.errors import DataError, shorten

SIGNS_FOLDER = Path(__file__).parent / "signs"
MAX_SIDE = 2048  # px
_MAX_KEPT_SIDE = 256  # px; larger drawings are not kept in memory, where all of them would need gigabytes
_CHECKED_SIDE = 64  # px
_SVG = "{http://www.w3.org/2000/svg}"
_ELEMENTS = ("g", "path", "circle", "ellipse", "rect", "line", "polyline", "polygon", "use", "defs")
_PAINTS = (*PALETTE, "none", "currentColor")
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


def draw_any_version(sign: ClassInfo, rng: np.random.Generator) -> Image.Image:
    """Draws a random version of the sign of a class, see `draw_sign`."""
    return draw_sign(sign, int(rng.integers(drawings().versions(sign.number))))


def german_signs() -> ClassList:
    """Returns the classes of GTSRB, with their ids, and further German signs.

    Raises:
        DataError: The descriptions are malformed.
    """
    return drawings().classes


@functools.cache
def drawings() -> "Drawings":
    """Returns the drawings of this repository."""
    return Drawings(SIGNS_FOLDER)


class Drawings:
    """The drawings of all described signs.

    Attributes:
        classes: The classes of GTSRB, with their ids, and further German signs.
        descriptions: The descriptions by number.
        fonts: The typefaces by name.
    """

    def __init__(self, folder: Path) -> None:
        """Reads and checks all files.

        Args:
            folder: Folder with the descriptions and `shapes/*.svg`, such as `SIGNS_FOLDER`.

        Raises:
            DataError: A file is missing or malformed, a sign has a shape, font or character that does not exist or a
                layer that shows nothing, or two signs have the same name.
        """
        self._folder = folder
        self.descriptions = read_descriptions(folder)
        self.fonts = read_fonts(folder)
        self._shapes = {path.stem: _shape(path) for path in sorted((folder / "shapes").glob("*.svg"))}
        for number, description in self.descriptions.items():
            for version, layers in enumerate(description.drawings):
                for place, layer in enumerate(layers):
                    self._require_known(layer, f"{folder}: sign {number}")
                    self._require_visible(layer, f"{folder}: sign {number}, version {version}, layer {place}")
        try:
            self.classes = _classes(self.descriptions)
        except ValueError as error:
            raise DataError(f"The signs in {folder} are not a valid class list: {error}.") from error

    def versions(self, number: str | None) -> int:
        """Returns the number of versions of a sign that are in use.

        Raises:
            DataError: The sign is not described.
        """
        return len(self._original(number)[0].drawings)

    def draw(self, number: str | None, version: int = 0, size: int = 128) -> Image.Image:
        """Draws one sign, see `draw_sign`. The image is shared; it must be copied before painting on it."""
        original, mirrored = self._original(number)
        if not 8 <= size <= MAX_SIDE:
            raise DataError(f"Cannot draw sign {number} with {size} px: the side must be 8 to {MAX_SIDE} px.")
        if not 0 <= version < len(original.drawings):
            raise DataError(f"Sign {number} has no version {version}: the last one is {len(original.drawings) - 1}.")
        render = _render_once if size <= _MAX_KEPT_SIDE else _render
        image = render(self._svg(original.drawings[version]), size)
        return ImageOps.mirror(image) if mirrored else image

    def compose(self, parts: Sequence[Layer | str], size: int) -> Image.Image:
        """Draws layers that are not the description of a sign.

        Args:
            parts: Layers, or elements of SVG in the same coordinates; the lowest first.
            size: Side of the square image in px, 8 to 2048.

        Returns:
            An RGBA image of `size` x `size` px.
        """
        return _render(self._svg(parts), size)

    def _original(self, number: str | None) -> tuple[Description, bool]:
        """Returns the description that has the drawings, and whether they must be mirrored."""
        if number is None:
            raise DataError("Cannot draw a class without a number in the sign catalogue.")
        description = self.descriptions.get(number)
        if description is None:
            raise DataError(
                f"Cannot draw sign {number}, because no file in {self._folder} describes it. "
                "docs/how-to/add-a-sign.md explains how to add a sign."
            )
        if description.mirrored:
            return self.descriptions[description.mirrored], True
        return description, False

    def _require_known(self, layer: Layer, where: str) -> None:
        if layer.shape and layer.shape not in self._shapes:
            raise DataError(f"{where} has the shape {layer.shape!r}, but there is no shapes/{layer.shape}.svg.")
        if layer.shape and "colour" in layer.model_fields_set and "currentColor" not in self._shapes[layer.shape]:
            raise DataError(
                f"{where} colours the shape {layer.shape!r}, but nothing in shapes/{layer.shape}.svg is currentColor."
            )
        if layer.text and layer.font not in self.fonts:
            raise DataError(f"{where} has the font {layer.font!r}, but {GLYPHS} only has {', '.join(self.fonts)}.")
        if missing := [character for character in layer.text or "" if character not in self.fonts[layer.font].glyphs]:
            raise DataError(
                f"{where} has the text {layer.text!r}, but the font {layer.font!r} has no glyph for {missing[0]!r}. "
                f"Add it to {GLYPHS}."
            )

    def _require_visible(self, layer: Layer, where: str) -> None:
        # resvg ignores what it cannot draw, so a mistake would only be a pictogram that is missing.
        try:
            image = _render_once(self._svg([layer]), _CHECKED_SIDE)
        except ValueError as error:
            raise DataError(
                f"{where} cannot be rendered: {error}. Check that no element use contains itself."
            ) from error
        if image.getbbox() is None:
            raise DataError(
                f"{where} shows nothing: it is outside of the sign, too small, without paint, or its path is not valid."
            )

    def _svg(self, parts: Sequence[Layer | str]) -> str:
        drawn = "".join(part if isinstance(part, str) else self._draw_layer(part) for part in parts)
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{_VIEW_BOX}"><style>{_STYLE}</style>{drawn}</svg>'

    def _draw_layer(self, layer: Layer) -> str:
        place = f"translate({layer.x} {layer.y}) rotate({layer.turn}) scale({-1 if layer.mirror else 1} 1)"
        colour = PALETTE[layer.colour]
        if layer.shape:
            move = f"{place} scale({layer.scale}) translate(-50 -50)"
            return f'<g transform="{move}" color="{colour}">{self._shapes[layer.shape]}</g>'
        font = self.fonts[layer.font]
        glyphs = [font.glyphs[character] for character in layer.text or ""]
        width = sum(glyph.width for glyph in glyphs) + layer.spacing * (len(glyphs) - 1)
        start, paths = -width / 2, ""
        for glyph in glyphs:
            paths += f'<path d="{glyph.path}" transform="translate({start} -50)"/>'
            start += glyph.width + layer.spacing
        pen = f'fill="none" stroke-width="{font.stroke}" style="stroke:{colour}"'
        return f'<g transform="{place} scale({layer.height / 100})" {pen}>{paths}</g>'


def _render(svg: str, size: int) -> Image.Image:
    return Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg, width=size, height=size))).convert("RGBA")


@functools.lru_cache(maxsize=1024)
def _render_once(svg: str, size: int) -> Image.Image:
    return _render(svg, size)


def _classes(descriptions: Mapping[str, Description]) -> ClassList:
    further = [one for one in descriptions.values() if one.name]
    numbers = [*(sign.number for sign in SIGNS), *(one.number for one in further)]
    ids = {number: class_id for class_id, number in enumerate(numbers)}
    mirrors = {ids[one.mirrored]: ids[number] for number, one in descriptions.items() if one.mirrored}
    mirrors |= {mirrored: original for original, mirrored in mirrors.items()}
    classes = [replace(sign, mirror=mirrors.get(sign.class_id, sign.mirror)) for sign in SIGNS]
    for class_id, one in enumerate(further, len(SIGNS)):
        mirror = class_id if one.symmetric else mirrors.get(class_id)
        original = descriptions[one.mirrored or one.number]
        # Signs with the same outline and colour share their lowest shape.
        classes.append(ClassInfo(class_id, one.name or "", one.number, original.drawings[0][0].shape, mirror))
    return ClassList(classes)


def _shape(path: Path) -> str:
    """Returns the elements of an SVG file without the `svg` element around them.

    They become a part of a larger SVG, so nothing is allowed that would affect or depend on what is outside of them.
    """
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314 - a file of this repository
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"Cannot read the shape {path}: {error}.") from error
    if root.tag != f"{_SVG}svg" or root.get("viewBox") != _VIEW_BOX:
        raise DataError(f'{path} must be an SVG file with viewBox="{_VIEW_BOX}".')
    if others := sorted({*root.keys()} - {"viewBox"}):
        raise DataError(f"{path}: the element svg can only have viewBox. Move {others[0]} to a g in it.")
    targets = {f"#{element.get('id')}" for element in root.iterfind(".//*")}
    for element in root.iterfind(".//*"):
        _check_element(element, path)
        if element.tag == f"{_SVG}use" and element.get("href") not in targets:
            raise DataError(f"{path}: use must have href with # and the id of an element of this file.")
    if not len(root):
        raise DataError(f"{path} is empty.")
    return "".join(ElementTree.tostring(element, encoding="unicode") for element in root)


def _check_element(element: ElementTree.Element, path: Path) -> None:
    name = element.tag.removeprefix(_SVG)
    if name not in _ELEMENTS:
        raise DataError(f"{path} can only have {', '.join(_ELEMENTS)}, but has {name}.")
    if {"style", "class"} & {*element.keys()}:
        raise DataError(f"{path}: {name} must have attributes such as fill instead of style or class.")
    for label in (element.get("id"), element.get("href", f"#{path.stem}").removeprefix("#")):
        if label is not None and not label.startswith(path.stem):
            raise DataError(f"{path}: the id {label!r} must start with {path.stem!r}, so that it is unique in a sign.")
    if name == "path" and not re.fullmatch(PATH_DATA, element.get("d", "")):
        raise DataError(
            f"{path}: path must have d with path data of plain numbers, such as M0 0L9 9, but d is "
            f"{shorten(element.get('d'))}."
        )
    for use in ("fill", "stroke"):
        if element.get(use, "none") not in _PAINTS:
            raise DataError(f"{path}: {use} must be one of {', '.join(_PAINTS)}, but is {element.get(use)!r}.")
