"""Draws symbols that are on no sign: letters, lines, bars, blobs, pictograms of several parts, and odd characters.

Symbols are elements of SVG, or a layer of text. Sizes and places are those of `drawing.py`: a sign is 100 wide.
"""

import functools
import itertools
import math

import numpy as np

from src.mlops.data.synthetic.description import PALETTE, Layer
from src.mlops.data.synthetic.drawing import drawings

_PARTS = ("black", "red", "yellow", "green", "blue", "grey")  # colours of the parts of a column
_CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# A character is drawn on 3 x 3 points, numbered by row. These pairs are the segments of a seven-segment display,
# clockwise from the top one, with the middle one last.
_SEGMENTS = ((0, 2), (2, 5), (5, 8), (8, 6), (6, 3), (3, 0), (3, 5))
_SEGMENTS_OF_DIGITS = frozenset(
    frozenset(int(segment) for segment in lit)
    for lit in ("012345", "12", "01346", "01236", "1256", "02356", "023456", "012", "0123456", "012356", "45", "0125")
)


def draw_symbol(
    rng: np.random.Generator, colour: str, x: float, y: float, size: float, *, bars: bool = True
) -> Layer | str:
    """Returns a symbol: letters, lines, blobs, or also bars, about `size` wide and high."""
    choice = rng.integers(5 if bars else 4)
    if choice == 0:
        text = "".join(rng.choice(list(_CAPITALS), int(rng.integers(1, 4))))
        height = size * min(1, 2.2 / (len(text) + 0.6))
        text = text if text != "X" else "Y"  # an X is the symbol of crossroads
        return Layer(text=text, font=font_for(text, rng), height=height, colour=colour, x=x, y=y)
    if choice == 1:
        elements = _lines(rng)
    elif choice == 2:
        elements = "".join(_blob(rng, rng.uniform(-25, 25, 2), rng.uniform(10, 30)) for _ in range(rng.integers(1, 5)))
    elif choice == 3:
        elements = _lines(rng) + _blob(rng, rng.uniform(-20, 20, 2), rng.uniform(8, 25))
    else:
        elements = _bars(rng)
    if rng.random() < 0.35:  # many pictograms are symmetric
        elements += f'<g transform="scale(-1 1)">{elements}</g>'
    return group(elements, x, y, size / 100, PALETTE[colour])


def _lines(rng: np.random.Generator) -> str:
    """Returns a bent line, sometimes with an arrowhead, within -50 to 50."""
    points = rng.uniform(-48, 48, (int(rng.integers(2, 6)), 2))
    path = "M" + " L".join(f"{px:.1f} {py:.1f}" for px, py in points)
    if rng.random() < 0.4:
        path = f"M{points[0, 0]:.1f} {points[0, 1]:.1f} Q" + " ".join(
            f"{px:.1f} {py:.1f}" for px, py in rng.uniform(-48, 48, (2, 2))
        )
    line = f'<path d="{path}" fill="none" stroke="currentColor" stroke-width="{rng.uniform(6, 22):.1f}"/>'
    if rng.random() < 0.4:
        turn, side = rng.uniform(0, 360), rng.uniform(14, 24)
        px, py = points[-1] * 0.7
        line += (
            f'<polygon points="0,{-side:.1f} {side:.1f},{side:.1f} {-side:.1f},{side:.1f}" '
            f'transform="translate({px:.1f} {py:.1f}) rotate({turn:.0f})"/>'
        )
    return line


def _bars(rng: np.random.Generator) -> str:
    """Returns parallel or crossing bars."""
    bars = ""
    turn = rng.choice((0, 45, 90, 135)) + rng.normal(0, 6)
    for number in range(int(rng.integers(1, 4))):
        width, length = rng.uniform(8, 26), rng.uniform(50, 100)
        away = number * rng.uniform(26, 34) - 15 if rng.random() < 0.6 else 0
        angle = turn + (90 if rng.random() < 0.3 else 0)
        bars += (
            f'<rect x="{-length / 2:.1f}" y="{away - width / 2:.1f}" width="{length:.1f}" height="{width:.1f}" '
            f'transform="rotate({angle:.0f})"/>'
        )
    return bars


def _blob(rng: np.random.Generator, centre: np.ndarray, radius: float) -> str:
    """Returns a closed shape, with corners or rounded."""
    count = int(rng.integers(3, 9))
    angles = np.sort(rng.uniform(0, 2 * math.pi, count))
    radii = radius * rng.uniform(0.5, 1.6, count)
    points = np.column_stack([np.cos(angles), np.sin(angles)]) * radii[:, None] + centre
    where = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    edge = rng.uniform(0, 12)
    return f'<polygon points="{where}" stroke="currentColor" stroke-width="{edge:.1f}"/>'


def draw_arrow(rng: np.random.Generator) -> str:
    """Returns an arrow within -50 to 50, straight or with a bend. It never points where those of real signs point."""
    turn = 45 * int(rng.integers(8)) + rng.uniform(14, 31)  # those point along multiples of 45 degrees
    tip = rng.uniform(34, 44) * np.array([math.sin(math.radians(turn)), -math.cos(math.radians(turn))])
    start = -tip if rng.random() < 0.5 else rng.uniform(-40, 40, 2)
    middle = (tip + start) / 2 if rng.random() < 0.5 else rng.uniform(-15, 15, 2)
    if np.hypot(*(tip - middle)) < 12:
        middle = np.zeros(2)
    aim = math.degrees(math.atan2(tip[0] - middle[0], middle[1] - tip[1]))
    half = rng.uniform(13, 20)
    points = "M{:.1f} {:.1f}L{:.1f} {:.1f}L{:.1f} {:.1f}".format(*start, *middle, *tip)
    line = f'<path d="{points}" fill="none" stroke="currentColor" stroke-width="{rng.uniform(9, 16):.1f}"/>'
    head = f'<polygon points="0,{-half:.1f} {half:.1f},{half / 2:.1f} {-half:.1f},{half / 2:.1f}"'
    return f'{line}{head} transform="translate({tip[0]:.1f} {tip[1]:.1f}) rotate({aim:.0f})"/>'


def draw_figure(rng: np.random.Generator) -> str:
    """Returns a pictogram of several parts within -50 to 50, most of them upright."""
    parts = ""
    for _ in range(int(rng.integers(2, 6))):
        width, height = rng.uniform(8, 60), rng.uniform(8, 60)
        right, low = width / 2, height / 2
        shape = (
            f'<ellipse rx="{width / 3:.1f}" ry="{height / 3:.1f}"/>',
            f'<rect x="{-right:.1f}" y="{-low:.1f}" width="{width:.1f}" height="{low:.1f}"/>',
            f'<polygon points="0,{-low:.1f} {right:.1f},{low:.1f} {-right:.1f},{low:.1f}"/>',
            f'<path d="M0 {-low:.1f}L{rng.uniform(-20, 20):.1f} 0L{rng.uniform(-30, 30):.1f} {height:.1f}" fill="none" '
            f'stroke="currentColor" stroke-width="{rng.uniform(5, 14):.1f}"/>',
        )[rng.integers(4)]
        turn = rng.normal(0, 25) if rng.random() < 0.6 else 0
        px, py = rng.uniform(-25, 25), rng.uniform(-30, 30)
        parts += f'<g transform="translate({px:.1f} {py:.1f}) rotate({turn:.0f})">{shape}</g>'
    return parts + (f'<g transform="scale(-1 1)">{parts}</g>' if rng.random() < 0.4 else "")


def draw_column(rng: np.random.Generator) -> str:
    """Returns dots and bars one above the other, sometimes side by side, within -50 to 50.

    They are never dots in red, yellow and green, as on a real sign. The longest part is the lowest one, because on an
    exclamation mark it is above a dot.
    """
    count = int(rng.choice((1, 2, 3, 4), p=(0.2, 0.35, 0.3, 0.15)))
    lengths = np.sort(rng.uniform(0.6, 3, count) * (rng.random(count) < 0.5))  # 0: a dot
    if count == 1:
        lengths += 2
    colours = ["black"] * count
    while rng.random() < 0.4 or {"red", "yellow", "green"} <= set(colours):
        colours = rng.choice(_PARTS, count).tolist()
    heights = np.maximum(lengths, 1) + 0.25
    unit = min(96 / heights.sum(), 34)
    parts, y = "", -unit * heights.sum() / 2
    for length, height, colour in zip(lengths, heights * unit, colours, strict=True):
        middle, width = y + height / 2, unit * rng.uniform(0.6, 1)
        if length:
            low, top = (height - unit * 0.25) / 2, width * rng.uniform(0.3, 0.6)
            points = f"{-top:.1f},{middle - low:.1f} {top:.1f},{middle - low:.1f}"
            shape = (
                f'<polygon points="{points} {width / 2:.1f},{middle + low:.1f} {-width / 2:.1f},{middle + low:.1f}"/>'
            )
        else:
            shape = f'<circle cy="{middle:.1f}" r="{width / 2:.1f}"/>'
        parts += f'<g style="fill:{PALETTE[colour]}">{shape}</g>'
        y += height
    turn = rng.choice((0, 90), p=(0.8, 0.2)) + rng.normal(0, 4)
    return f'<g transform="translate({rng.normal(0, 5):.1f} 0) rotate({turn:.0f})">{parts}</g>'


def group(elements: str, x: float, y: float, scale: float, colour: str) -> str:
    """Returns elements around (0, 0) at their place on the sign."""
    return (
        f'<g transform="translate({x:.1f} {y:.1f}) scale({scale:.3f})" color="{colour}" fill="currentColor" '
        f'stroke-linecap="round" stroke-linejoin="round">{elements}</g>'
    )


def draw_odd_character(rng: np.random.Generator, x: float, height: float, width: float, colour: str) -> str:
    """Returns a character of straight lines that is no digit."""
    right, low, stroke = width * 0.4, height * 0.43, height * rng.uniform(0.12, 0.18)
    points = [(across * right, down * low) for down in (-1, 0, 1) for across in (-1, 0, 1)]
    if rng.random() < 0.5:
        lit = _segments(rng)
        lines = [_SEGMENTS[place] for place in sorted(lit)]
    else:
        lines = list(itertools.pairwise(_path(rng)))
    drawn = "".join("M{:.1f} {:.1f}L{:.1f} {:.1f}".format(*points[start], *points[end]) for start, end in lines)
    return (
        f'<path d="{drawn}" transform="translate({x:.1f} 50)" fill="none" style="stroke:{PALETTE[colour]}" '
        f'stroke-width="{stroke:.1f}" stroke-linecap="{rng.choice(("round", "square"))}"/>'
    )


def _path(rng: np.random.Generator) -> list[int]:
    """Returns points that do not make a digit: both ends are in the same row, but most digits go from top to bottom."""
    while True:
        path: list[int] = rng.choice(9, int(rng.integers(3, 6)), replace=False).tolist()
        if path[0] // 3 == path[-1] // 3:
            return path


def _segments(rng: np.random.Generator) -> frozenset[int]:
    """Returns segments that are not those of a digit."""
    while True:
        lit = frozenset(np.flatnonzero(rng.random(7) < 0.55).tolist())
        if 2 <= len(lit) <= 6 and lit not in _SEGMENTS_OF_DIGITS:
            return lit


def font_for(text: str, rng: np.random.Generator) -> str:
    """Returns a random typeface that has all characters."""
    return str(rng.choice([name for name, font in drawings().fonts.items() if font.glyphs.keys() >= set(text)]))


@functools.cache
def used_texts() -> frozenset[str]:
    """Returns all texts on the signs of the catalogue."""
    return frozenset(
        layer.text
        for description in drawings().descriptions.values()
        for layers in description.drawings
        for layer in layers
        if layer.text
    )
