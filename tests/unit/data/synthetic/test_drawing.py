"""Tests the drawings of the signs."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from src.mlops.data.classes import ClassInfo
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.synthetic.description import PALETTE
from src.mlops.data.synthetic.drawing import SIGNS_FOLDER, draw_sign, drawings, german_signs
from src.mlops.errors import DataError

SIZE = 64
GERMAN = german_signs()
DRAWINGS = [(sign, version) for sign in GERMAN for version in range(drawings().versions(sign.number))]
MIRRORED = [(sign, version) for sign, version in DRAWINGS if sign.mirror is not None]
UNMIRRORED = [(sign, version) for sign, version in DRAWINGS if sign.mirror is None]
# The same but for the text.
MIRRORED_BUT_FOR_TEXT = {"108-10": "110-12", "110-12": "108-10", "220-10": "220-20", "220-20": "220-10"}
SHAPES = sorted((SIGNS_FOLDER / "shapes").glob("*.svg"))


def label(value: object) -> str | None:
    return f"{value.number}" if isinstance(value, ClassInfo) else None


def pixels(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image, np.float32)


@pytest.fixture(scope="module")
def every() -> NDArray[np.float32]:
    return np.stack([pixels(draw_sign(sign, version, SIZE)) for sign, version in DRAWINGS])


def differences(image: Image.Image, others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the mean absolute difference of an image to each of the others, 0 to 255."""
    return np.asarray(np.abs(others - pixels(image)).mean(axis=(1, 2, 3)))


@pytest.mark.parametrize(("sign", "version"), DRAWINGS, ids=label)
def test_a_sign_fills_its_image_and_is_transparent_outside(sign: ClassInfo, version: int) -> None:
    drawing = draw_sign(sign, version, SIZE)
    assert (drawing.mode, drawing.size) == ("RGBA", (SIZE, SIZE))
    alpha = np.asarray(drawing.getchannel("A"))
    assert alpha[SIZE // 2, SIZE // 2] == 255
    assert alpha[0, 0] == alpha[0, -1] == alpha[-1, 0] == alpha[-1, -1] == 0
    left, top, right, bottom = drawing.getbbox() or (0, 0, 0, 0)
    assert max(right - left, bottom - top) >= 0.95 * SIZE
    assert min(right - left, bottom - top) >= 0.3 * SIZE
    assert (left + right) / 2 == pytest.approx(SIZE / 2, abs=1)
    assert (top + bottom) / 2 == pytest.approx(SIZE / 2, abs=2)


@pytest.mark.parametrize(("sign", "version"), DRAWINGS, ids=label)
def test_a_drawing_differs_from_all_others(sign: ClassInfo, version: int, every: NDArray[np.float32]) -> None:
    distances = differences(draw_sign(sign, version, SIZE), every)
    others = np.array([other is not sign for other, _ in DRAWINGS])
    versions = np.array([other is sign and number != version for other, number in DRAWINGS])
    assert distances[others].min() > 2  # of 255; the closest are limits that differ in a part of one digit
    assert distances[versions].min(initial=np.inf) > 0.05


@pytest.mark.parametrize(("sign", "version"), MIRRORED, ids=label)
def test_the_mirrored_drawing_is_the_mirror_class(sign: ClassInfo, version: int, every: NDArray[np.float32]) -> None:
    distances = differences(ImageOps.mirror(draw_sign(sign, version, SIZE)), every)
    nearest, _ = DRAWINGS[int(np.argmin(distances))]
    assert nearest.class_id == sign.mirror
    assert distances.min() < 0.9


@pytest.mark.parametrize(("sign", "version"), UNMIRRORED, ids=label)
def test_a_mirrored_drawing_without_mirror_class_resembles_no_sign(
    sign: ClassInfo, version: int, every: NDArray[np.float32]
) -> None:
    distances = differences(ImageOps.mirror(draw_sign(sign, version, SIZE)), every)
    same_but_for_text = np.array(
        [other.number == MIRRORED_BUT_FOR_TEXT.get(sign.number or "") for other, _ in DRAWINGS]
    )
    assert distances[~same_but_for_text].min() > 1.5


def test_the_signs_of_gtsrb_come_first() -> None:
    assert [(sign.class_id, sign.name, sign.number, sign.shape) for sign in GERMAN[: len(SIGNS)]] == [
        (sign.class_id, sign.name, sign.number, sign.shape) for sign in SIGNS
    ]
    assert len({sign.number for sign in GERMAN}) == len({sign.name for sign in GERMAN}) == len(GERMAN) > len(SIGNS)


def test_a_further_sign_can_be_the_mirror_class_of_one_of_gtsrb() -> None:
    by_number = {sign.number: sign for sign in GERMAN}
    first, second = by_number["105-10"], by_number["105-20"]
    assert (first.mirror, second.mirror) == (second.class_id, first.class_id)
    assert SIGNS[first.class_id].mirror is None
    assert by_number["102"].mirror == by_number["102"].class_id
    assert by_number["254"].mirror is None


def test_a_mirrored_sign_is_exactly_the_mirror_image() -> None:
    signs = {sign.number: sign for sign in GERMAN}
    flipped = ImageOps.mirror(draw_sign(signs["103-10"], 1, SIZE))
    assert flipped.tobytes() == draw_sign(signs["103-20"], 1, SIZE).tobytes()


def test_painting_on_a_drawing_leaves_the_next_one_clean() -> None:
    untouched = draw_sign(SIGNS[14], size=SIZE).tobytes()
    draw_sign(SIGNS[14], size=SIZE).paste((0, 0, 0, 255), (0, 0, SIZE, SIZE))
    assert draw_sign(SIGNS[14], size=SIZE).tobytes() == untouched


@pytest.mark.parametrize("size", [8, 2048])
def test_the_smallest_and_the_largest_drawing(size: int) -> None:
    assert draw_sign(SIGNS[0], size=size).size == (size, size)


@pytest.mark.parametrize("size", [5000, 2049, 7, 0, -1])
def test_a_size_out_of_range_is_rejected(size: int) -> None:
    with pytest.raises(DataError, match=rf"sign 206 with {size} px: the side must be 8 to 2048 px\.$"):
        draw_sign(SIGNS[14], size=size)


@pytest.mark.parametrize("sign", [SIGNS[0], SIGNS[20]], ids=label)  # the second one is mirrored
def test_an_unknown_version_is_rejected(sign: ClassInfo) -> None:
    versions = drawings().versions(sign.number)
    for version in (-1, versions):
        message = rf"^Sign {sign.number} has no version {version}: the last one is {versions - 1}\.$"
        with pytest.raises(DataError, match=message):
            draw_sign(sign, version)


def test_an_unknown_sign_is_rejected() -> None:
    with pytest.raises(DataError, match=r"sign 999, because no file in .*signs describes it.*add-a-sign\.md"):
        draw_sign(ClassInfo(0, "Elks", "999"))
    with pytest.raises(DataError, match="without a number"):
        draw_sign(ClassInfo(0, "Elks"))


def test_every_shape_is_used() -> None:
    layers = [layer for one in drawings().descriptions.values() for drawing in one.drawings for layer in drawing]
    assert {layer.shape for layer in layers if layer.shape} == {path.stem for path in SHAPES}


@pytest.mark.parametrize("path", SHAPES, ids=lambda path: path.stem)
def test_a_shape_shows_itself_in_a_browser(path: Path) -> None:
    """Names of the palette are colours of CSS, so only `svg` and its `viewBox` are needed to look at the file."""
    root = ElementTree.parse(path).getroot()
    paints = {element.get(use) for element in root.iter() for use in ("fill", "stroke")} - {None}
    assert paints <= {*PALETTE, "none", "currentColor"}
    assert paints - {"none"}


def test_drawings_have_only_colours_of_the_palette() -> None:
    known = {tuple(int(value[place : place + 2], 16) for place in (1, 3, 5)) for value in PALETTE.values()}
    for sign, version in DRAWINGS:
        drawing = draw_sign(sign, version, 256)
        counts = drawing.convert("RGB").getcolors(1 << 16) or []
        flat = {colour for count, colour in counts if count > 0.02 * 256 * 256}  # others are antialiased edges
        assert flat - {(0, 0, 0)} <= known, sign.number
        assert flat & known


def test_large_drawings_are_not_kept_in_memory() -> None:
    assert drawings().draw("206", size=128) is drawings().draw("206", size=128)
    assert drawings().draw("206", size=1024) is not drawings().draw("206", size=1024)
