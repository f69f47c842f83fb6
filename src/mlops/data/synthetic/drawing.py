"""Draws each of the 43 signs as a clean image, as it is printed in the sign catalogue.

The outline follows from the shape and the numerals from the catalogue number in `gtsrb.py`. This module adds only the
pictograms. If the catalogue changed a sign after 2010, the image shows the version in GTSRB.
All coordinates are hundredths of the image's side: (0, 0) is the top left corner, (100, 100) the bottom right one.
"""

import functools
import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from src.mlops.data.gtsrb import SIGNS
from src.mlops.errors import DataError

Point = tuple[float, float]
Limbs = tuple[list[Point], list[Point]]
Colour = tuple[int, int, int]

# Similar to the RAL colours of the catalogue (3020, 5017, 1023, 6024), but slightly faded.
WHITE: Colour = (244, 244, 242)
BLACK: Colour = (22, 22, 24)
GREY: Colour = (138, 140, 142)
RED: Colour = (193, 20, 30)
BLUE: Colour = (12, 84, 166)
YELLOW: Colour = (246, 180, 14)
GREEN: Colour = (0, 142, 96)

_MIN_RENDER_SIDE = 512  # pixels; signs are drawn at least this large and then reduced, to get smooth edges
_CENTROID_Y = 64.5  # of the triangle, so that its bounding box is centred in the image


@functools.lru_cache(maxsize=4 * len(SIGNS))
def _draw(class_id: int, size: int) -> Image.Image:
    sign = SIGNS[class_id]
    if sign.mirror is not None and sign.mirror < class_id:
        return ImageOps.mirror(_draw(sign.mirror, size))
    canvas = Canvas(max(_MIN_RENDER_SIDE, 2 * size))
    _OUTLINES[sign.shape](canvas)
    if class_id in _PICTOGRAMS:
        _PICTOGRAMS[class_id](canvas)
    if sign.shape == "grey_circle":
        _end_stripes(canvas)
    return canvas.image.resize((size, size), Image.Resampling.LANCZOS)


def draw_sign(class_id: int, size: int = 128) -> Image.Image:
    """Draws one sign.

    Args:
        class_id: The benchmark's class, 0 to 42.
        size: Side of the square image in pixels.

    Returns:
        An RGBA image of `size` x `size` pixels, transparent outside of the sign's outline.

    Raises:
        DataError: The class does not exist.
    """
    if not 0 <= class_id < len(SIGNS):
        raise DataError(
            f"Cannot draw class {class_id}: class ids must be 0 to {len(SIGNS) - 1}. "
            "The classes are listed in src/mlops/data/gtsrb.py."
        )
    return _draw(class_id, size).copy()  # a copy, because callers may paint on the image


class Canvas:
    """A transparent square image with coordinates in hundredths of its side.

    Attributes:
        image: The RGBA image.
    """

    def __init__(self, side: int) -> None:
        """Creates an empty image of `side` x `side` pixels."""
        self.image = Image.new("RGBA", (side, side))
        self._draw = ImageDraw.Draw(self.image)
        self._unit = side / 100

    def polygon(self, points: Sequence[Point], colour: Colour, rounding: float = 0) -> None:
        """Fills a polygon; `rounding` enlarges it by that radius and rounds its corners."""
        self._draw.polygon(self._pixels(points), fill=colour)
        if rounding:
            self.stroke([*points, points[0]], 2 * rounding, colour, round_ends=True)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fills an upright rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Fills a circle around (x, y)."""
        self._draw.ellipse(self._pixels([(x - radius, y - radius), (x + radius, y + radius)]), fill=colour)

    def stroke(self, points: Sequence[Point], width: float, colour: Colour, *, round_ends: bool = False) -> None:
        """Draws a line through the points with round bends and optionally round ends."""
        self._draw.line(self._pixels(points), colour, round(width * self._unit))
        for x, y in points if round_ends else points[1:-1]:
            self.disc(x, y, width / 2, colour)

    def arrow(self, path: Sequence[Point], width: float, head: float, colour: Colour = WHITE) -> None:
        """Draws a line with a barbed arrowhead of length `head` and width 2 * `head`."""
        (x, y), (tip_x, tip_y) = path[-2:]
        length = math.hypot(tip_x - x, tip_y - y)
        forward = ((tip_x - x) / length, (tip_y - y) / length)

        def beside_tip(back: float, side: float) -> Point:
            return tip_x - forward[0] * back - forward[1] * side, tip_y - forward[1] * back + forward[0] * side

        barb = 1.3 * width
        self.stroke([*path[:-1], beside_tip(barb / 2, 0)], width, colour)
        right = [beside_tip(head, head), beside_tip(head + barb, head)]
        left = [beside_tip(head + barb, -head), beside_tip(head, -head)]
        self.polygon([beside_tip(0, 0), *right, beside_tip(barb, 0), *left], colour)

    def text(self, text: str, box: tuple[float, float, float, float], colour: Colour, weight: float) -> None:
        """Writes text stretched to a box (left, top, right, bottom), with strokes widened by `weight` hundredths."""
        font = ImageFont.load_default(size=40 * self._unit)
        widening = weight * self._unit
        left, top, right, bottom = font.getbbox(text, stroke_width=widening)
        glyphs = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
        ImageDraw.Draw(glyphs).text((-left, -top), text, 255, font, stroke_width=widening)
        x1, y1, x2, y2 = (round(edge * self._unit) for edge in box)
        mask = glyphs.resize((x2 - x1, y2 - y1), Image.Resampling.BICUBIC)
        self.image.paste((*colour, 255), (x1, y1, x2, y2), mask)

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._unit, y * self._unit) for x, y in points]


# Outlines, one for each shape family.


def _rings(canvas: Canvas, *rings: tuple[float, Colour]) -> None:
    for radius, colour in rings:
        canvas.disc(50, 50, radius, colour)


def _triangle(canvas: Canvas, inner: float, *, point_down: bool = False) -> None:
    for circumradius, rounding, colour in ((52.0, 4.5, WHITE), (52.0, 3.0, RED), (inner, 1.5, WHITE)):
        half_base, base_y = circumradius * math.sqrt(0.75), _CENTROID_Y + circumradius / 2
        corners = [(50, _CENTROID_Y - circumradius), (50 + half_base, base_y), (50 - half_base, base_y)]
        # Mirrored at 51.5, the inverted triangle also extends from 8 to 95.
        canvas.polygon([(x, 103 - y) for x, y in corners] if point_down else corners, colour, rounding)


def _octagon(canvas: Canvas) -> None:
    for radius, colour in ((53.5, WHITE), (49.5, RED)):
        angles = [math.radians(22.5 + 45 * corner) for corner in range(8)]
        canvas.polygon([(50 + radius * math.cos(a), 50 + radius * math.sin(a)) for a in angles], colour)


def _diamond(canvas: Canvas) -> None:
    for half, rounding, colour in ((44, 5, WHITE), (44, 4, BLACK), (44, 2.8, WHITE), (30, 1.2, BLACK), (30, 0, YELLOW)):
        canvas.polygon([(50, 50 - half), (50 + half, 50), (50, 50 + half), (50 - half, 50)], colour, rounding)


def _end_stripes(canvas: Canvas) -> None:
    for offset in (-9.6, -4.8, 0, 4.8, 9.6):
        middle = 50 + offset * math.sqrt(0.5)
        reach = math.sqrt((46.5**2 - offset**2) / 2)  # half of the disc's chord, along x and along y
        canvas.stroke([(middle - reach, middle + reach), (middle + reach, middle - reach)], 2.6, BLACK)


_OUTLINES: dict[str | None, Callable[[Canvas], None]] = {
    "red_circle": lambda canvas: _rings(canvas, (49.5, WHITE), (47.5, RED), (36, WHITE)),
    "grey_circle": lambda canvas: _rings(canvas, (49.5, WHITE), (47.5, BLACK), (46, WHITE)),
    "blue_circle": lambda canvas: _rings(canvas, (49.5, WHITE), (47.5, BLUE)),
    "red_triangle": lambda canvas: _triangle(canvas, inner=37.0),
    "yield_triangle": lambda canvas: _triangle(canvas, inner=34.0, point_down=True),
    "octagon": _octagon,
    "diamond": _diamond,
}


# Pictograms: numerals and plain figures first, then arrows, vehicles, people and the rest.


def _limit(canvas: Canvas, digits: str) -> None:
    half_width = 29 if len(digits) == 3 else 25
    canvas.text(digits, (50 - half_width, 31, 50 + half_width, 69), BLACK, weight=0.8)


def _end_of_limit(canvas: Canvas, digits: str) -> None:
    canvas.text(digits, (19, 28, 81, 72), GREY, weight=1.2)


def _stop(canvas: Canvas) -> None:
    canvas.text("STOP", (10, 34, 90, 66), WHITE, weight=2)


def _no_entry(canvas: Canvas) -> None:
    canvas.disc(50, 50, 47.5, RED)
    canvas.box(11, 41, 89, 59, WHITE)


def _exclamation_mark(canvas: Canvas) -> None:
    canvas.polygon([(46.5, 40), (53.5, 40), (51.5, 66), (48.5, 66)], BLACK, rounding=1.5)
    canvas.disc(50, 76, 4.3, BLACK)


def _priority_arrow(canvas: Canvas) -> None:
    tip = [(50.0, 34.0), (60.0, 48.0), (56.5, 48.0), (56.5, 82.0), (50.0, 78.0)]
    canvas.polygon(tip + [(100 - x, y) for x, y in reversed(tip)], BLACK)
    canvas.box(35, 59, 65, 65.5, BLACK)


def _bend_left(canvas: Canvas) -> None:
    canvas.stroke([(61, 81), (61, 67), (59.5, 62), (55.5, 59), (47, 57.5)], 8, BLACK)
    canvas.polygon([(34, 59), (47, 50.5), (46, 66)], BLACK)


def _double_bend(canvas: Canvas) -> None:
    canvas.stroke([(57.5, 82), (57.5, 66), (44.5, 62), (44.5, 48)], 7.5, BLACK)
    canvas.polygon([(46, 37), (38.5, 51), (50.5, 51)], BLACK)


def _bumps(canvas: Canvas) -> None:
    for x in (40.0, 60.0):
        hump = [(x + 10.5 * math.cos(a / 10), 78 - 11 * math.sin(a / 10)) for a in range(32)]
        canvas.polygon(hump, BLACK)
    canvas.box(27, 76, 73, 80, BLACK)


def _narrowing(canvas: Canvas) -> None:
    canvas.stroke([(41.5, 82), (41.5, 44)], 5.5, BLACK)
    canvas.stroke([(64, 82), (64, 70), (55, 58), (55, 44)], 5.5, BLACK)


def _traffic_light(canvas: Canvas) -> None:
    for y, colour in ((45, RED), (60, YELLOW), (75, GREEN)):
        canvas.disc(50, y, 6.6, BLACK)
        canvas.disc(50, y, 5.6, colour)


def _snowflake(canvas: Canvas) -> None:
    def polar(radius: float, degrees: float) -> Point:
        return 50 + radius * math.sin(math.radians(degrees)), 63 - radius * math.cos(math.radians(degrees))

    for degrees in range(0, 360, 60):
        canvas.stroke([(50, 63), polar(17, degrees)], 3.2, BLACK)
        canvas.stroke([polar(14.5, degrees - 27), polar(8, degrees), polar(14.5, degrees + 27)], 3, BLACK)


def _turn_right(canvas: Canvas) -> None:
    bend = [(40.0 + 14 * (1 - math.cos(a / 10)), 57 - 14 * math.sin(a / 10)) for a in range(0, 16, 3)]
    canvas.arrow([(40, 83), *bend, (60, 43), (85, 43)], width=10, head=15)


def _straight_ahead(canvas: Canvas) -> None:
    canvas.arrow([(50, 86), (50, 14)], width=11, head=19)


def _straight_or_right(canvas: Canvas) -> None:
    canvas.arrow([(40, 86), (40, 11)], width=9, head=14)
    canvas.arrow([(40, 74), (42, 67), (48, 62.5), (56, 61), (86, 61)], width=9, head=13)


def _keep_right(canvas: Canvas) -> None:
    canvas.arrow([(23, 23), (79, 79)], width=11, head=21)


def _roundabout(canvas: Canvas) -> None:
    for start in (10, 130, 250):
        angles = [math.radians(degrees) for degrees in range(start, start + 81, 8)]
        arc = [(50 + 29 * math.cos(a), 50 - 29 * math.sin(a)) for a in angles]
        # The head points along the tangent at the end of the arc.
        end, (x, y) = angles[-1], arc[-1]
        canvas.arrow([*arc, (x - 11 * math.sin(end), y - 11 * math.cos(end))], width=7.5, head=9.5)


def _car(canvas: Canvas, x: float, y: float, width: float, colour: Colour, degrees: float = 0) -> None:
    """Draws a car from behind; (x, y) is the middle of its body and `degrees` its roll angle."""
    cos, sin = math.cos(math.radians(degrees)) * width / 24, math.sin(math.radians(degrees)) * width / 24

    def part(points: Sequence[Point], fill: Colour) -> None:
        canvas.polygon([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in points], fill)

    part([(-12, -1), (-9, -2.5), (9, -2.5), (12, -1), (12, 6), (-12, 6)], colour)
    part([(-9.5, -2), (-7, -10), (7, -10), (9.5, -2)], colour)
    part([(-7.2, -2.5), (-5.6, -8), (5.6, -8), (7.2, -2.5)], WHITE)
    for left in (-10.5, 6.0):
        part([(left, 5), (left + 4.5, 5), (left + 4.5, 9.5), (left, 9.5)], colour)


def _two_cars(canvas: Canvas, left: Colour, right: Colour) -> None:
    _car(canvas, 34.5, 50, 25, left)
    _car(canvas, 65.5, 50, 25, right)


def _lorry_and_car(canvas: Canvas, left: Colour, right: Colour) -> None:
    canvas.box(20.5, 35, 47, 58, left)
    canvas.box(23, 58, 44.5, 61, left)
    canvas.box(22, 58, 27.5, 66, left)
    canvas.box(40, 58, 45.5, 66, left)
    _car(canvas, 66, 56.5, 25, right)


def _lorry(canvas: Canvas) -> None:
    canvas.box(38, 37, 79, 57, BLACK)
    canvas.polygon([(21, 60), (21, 52), (25, 43), (36, 43), (36, 60)], BLACK)
    canvas.polygon([(24.5, 51), (27, 45.5), (32, 45.5), (32, 51)], WHITE)
    canvas.box(21, 57, 77, 61, BLACK)
    for x in (31, 66):
        canvas.disc(x, 61, 6, WHITE)
        canvas.disc(x, 61, 4.8, BLACK)


def _skidding_car(canvas: Canvas) -> None:
    _car(canvas, 50, 55, 24, BLACK, degrees=8)
    for x, sign in ((43, 1), (58, -1)):
        canvas.stroke([(x + sign * 5 * math.sin(t / 2), 67 + t * 1.4) for t in range(12)], 2.6, BLACK)


def _bicycle(canvas: Canvas) -> None:
    for x in (36.5, 63.5):
        canvas.disc(x, 72, 10.5, BLACK)
        canvas.disc(x, 72, 8, WHITE)
    frame = [(36.5, 72.0), (44, 59), (58, 59), (50, 72), (36.5, 72)]
    canvas.stroke(frame, 2.4, BLACK, round_ends=True)
    canvas.stroke([(50, 72), (43, 55)], 2.4, BLACK)
    canvas.stroke([(63.5, 72), (57, 54), (52.5, 53.5)], 2.4, BLACK, round_ends=True)
    canvas.stroke([(39.5, 54.5), (47, 54.5)], 3, BLACK, round_ends=True)


def _figure(canvas: Canvas, head: Point, head_radius: float, width: float, *limbs: Sequence[Point]) -> None:
    """Draws a person: a head, and a line of `width` for each limb; the first limb is the trunk, twice as thick."""
    canvas.disc(*head, head_radius, BLACK)
    for index, limb in enumerate(limbs):
        canvas.stroke(limb, width if index else 2 * width, BLACK, round_ends=True)


def _pedestrian(canvas: Canvas) -> None:
    legs: Limbs = [(50, 61), (45, 69), (41.5, 81)], [(50, 61), (56.5, 69), (64, 80)]
    arms: Limbs = [(49, 50), (42.5, 55), (39, 62)], [(52.5, 50), (57.5, 57), (55.5, 64)]
    _figure(canvas, (48, 41.5), 4, 3.8, [(50.5, 50.5), (50, 60)], *legs, *arms)


def _children(canvas: Canvas) -> None:
    legs: Limbs = [(56, 62), (51, 70), (45, 73)], [(56, 62), (61, 71), (66, 80)]
    arms: Limbs = [(55, 52), (49, 57), (45, 63)], [(57, 52), (63, 55), (66, 61)]
    _figure(canvas, (53.5, 44), 3.7, 3.4, [(55.5, 52), (56, 60.5)], *legs, *arms)
    legs = [(38, 70), (35, 76), (30, 78)], [(38, 70), (41, 76), (43.5, 82)]
    arms = [(37.5, 64), (33, 67), (29.5, 65)], [(38.5, 64), (45, 63)]
    _figure(canvas, (37, 57.5), 3.1, 2.7, [(38, 64.5), (38, 69.5)], *legs, *arms)


def _worker(canvas: Canvas) -> None:
    legs: Limbs = [(42, 62), (39, 71), (34, 82)], [(42, 62), (48, 70), (47.5, 82)]
    arms: Limbs = [(48, 50), (54, 57), (54, 64)], [(48, 50), (46, 61), (49, 62)]
    _figure(canvas, (50, 43.5), 3.7, 3.6, [(47, 51.5), (42.5, 60.5)], *legs, *arms)
    canvas.stroke([(43, 57.5), (64, 72)], 2.2, BLACK)
    canvas.polygon([(54, 82.5), (66, 69), (77, 82.5)], BLACK)


def _deer(canvas: Canvas) -> None:
    body = [(42.0, 52.0), (47, 54.5), (57, 61.5), (63, 67), (63.5, 73), (58, 71), (50, 69.5), (45, 66), (43, 60)]
    canvas.polygon(body, BLACK, rounding=1)
    canvas.polygon([(37, 51), (42, 46.5), (46, 48), (48, 56), (43, 60), (42, 52)], BLACK)  # head and neck
    canvas.stroke([(43.5, 47), (43, 42), (46, 37.5)], 1.8, BLACK)  # antlers
    canvas.stroke([(45, 48), (48, 43), (47.5, 39)], 1.8, BLACK)
    for leg in ([(46, 65), (38, 65), (34, 71)], [(47, 67), (40, 69), (37.5, 74)]):
        canvas.stroke(leg, 2.4, BLACK, round_ends=True)
    for leg in ([(60, 69), (64, 75), (70, 82)], [(62, 68), (67, 73), (74, 80)]):
        canvas.stroke(leg, 2.6, BLACK, round_ends=True)


# Signs that consist only of their outline have no entry, nor has the second sign of a mirrored pair.
_PICTOGRAMS: dict[int, Callable[[Canvas], None]] = {
    **{
        sign.class_id: functools.partial(_limit, digits=str(sign.number).removeprefix("274-"))
        for sign in SIGNS
        if str(sign.number).startswith("274-")
    },
    6: functools.partial(_end_of_limit, digits=str(SIGNS[6].number).removeprefix("278-")),
    9: functools.partial(_two_cars, left=RED, right=BLACK),
    10: functools.partial(_lorry_and_car, left=RED, right=BLACK),
    11: _priority_arrow,
    14: _stop,
    16: _lorry,
    17: _no_entry,
    18: _exclamation_mark,
    19: _bend_left,
    21: _double_bend,
    22: _bumps,
    23: _skidding_car,
    24: _narrowing,
    25: _worker,
    26: _traffic_light,
    27: _pedestrian,
    28: _children,
    29: _bicycle,
    30: _snowflake,
    31: _deer,
    33: _turn_right,
    35: _straight_ahead,
    36: _straight_or_right,
    38: _keep_right,
    40: _roundabout,
    41: functools.partial(_two_cars, left=GREY, right=GREY),
    42: functools.partial(_lorry_and_car, left=GREY, right=GREY),
}
