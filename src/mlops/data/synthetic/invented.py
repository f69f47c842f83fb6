"""Draws signs that do not exist: numbers that are on no sign, invented symbols, outlines and colours.

No pictogram of a real sign is used, so a class that is left out of a training stays unseen. Real outlines always have
something on them that no real sign has.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from src.mlops.data.synthetic.description import PALETTE, Layer
from src.mlops.data.synthetic.drawing import drawings

# The outlines of real signs that have something on them, with the colour of it, and how often they are used.
_FRAMES = (
    ("red_circle", "black", 6),
    ("red_circle_thin", "black", 1),
    ("red_triangle", "black", 8),
    ("blue_circle", "white", 3),
    ("grey_circle", "black", 2),
    ("diamond", "black", 1),
    ("octagon", "white", 1),
    ("yield_triangle", "black", 1),
)
_SIDES = (3, 4, 5, 6, 8, 64)  # corners of an outline; 64 look like a circle
_CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTERS = "ACEFHJKLMNPRTUVWXY"  # those that do not look like a digit
# A character is drawn on 3 x 3 points, numbered by row. These pairs are the segments of a seven-segment display,
# clockwise from the top one, with the middle one last.
_SEGMENTS = ((0, 2), (2, 5), (5, 8), (8, 6), (6, 3), (3, 0), (3, 5))
_SEGMENTS_OF_DIGITS = frozenset(
    frozenset(int(segment) for segment in lit)
    for lit in ("012345", "12", "01346", "01236", "1256", "02356", "023456", "012", "0123456", "012356", "45", "0125")
)
# Share of a sign that its symbol covers at least. With less, it looks like one without a symbol, such as "give way".
_LEAST_SYMBOL = 0.02


def _unused_number(rng: np.random.Generator) -> Image.Image:
    """Returns a speed limit, or the end of one, with a number that is on no sign."""
    text = unused_number(rng)
    height = rng.uniform(36, 48) * min(1, 2.4 / len(text))
    colour, parts = _number_frame(rng)
    digits = Layer(text=text, font=_font_for(text, rng), height=height, spacing=rng.uniform(6, 18), colour=colour)
    return _draw([parts[0], digits, *parts[1:]])


def _odd_number(rng: np.random.Generator) -> Image.Image:
    """Returns what looks like a speed limit, or the end of one, but has a wrong character in one place.

    It is a letter, a mirrored or turned digit, or one of straight lines, as in a seven-segment display.
    """
    count = int(rng.choice((2, 3), p=(0.7, 0.3)))
    odd = int(rng.integers(count - 1))  # most limits end with 0, so that says little
    height, gap = rng.uniform(38, 48) * min(1, 2.5 / count), rng.uniform(1, 6)
    font = str(rng.choice(("wide", "narrow")))
    width = height * (0.57 if font == "wide" else 0.42)
    start = 50 - (count - 1) * (width + gap) / 2
    colour, (frame, *above) = _number_frame(rng)
    parts: list[Layer | str] = [frame]
    for place in range(count):
        x = start + place * (width + gap)
        character = "0" if place == count - 1 else str(rng.choice(list("123456789")))
        if place != odd:
            parts.append(Layer(text=character, font=font, height=height, colour=colour, x=x))
        elif rng.random() < 0.4:
            parts.append(_strokes(rng, x, height, width, colour))
        elif rng.random() < 0.5:
            parts.append(Layer(text=str(rng.choice(list(_LETTERS))), font=font, height=height, colour=colour, x=x))
        else:
            digit, turned = str(rng.choice(list("2345"))), bool(rng.random() < 0.5)
            turned = turned and digit in "34"  # 2 and 5 look like themselves if they are turned
            turn = 180.0 if turned else 0.0
            glyph = Layer(text=digit, font=font, height=height, colour=colour, x=x, mirror=not turned, turn=turn)
            parts.append(glyph if digit in drawings().fonts[font].glyphs else _strokes(rng, x, height, width, colour))
    return _draw([*parts, *above])


def _number_frame(rng: np.random.Generator) -> tuple[str, list[Layer]]:
    """Returns the colour of the digits, the outline, and for the end of a limit what is above the digits."""
    if rng.random() < 0.75:
        return "black", [_frame("red_circle")]
    return str(rng.choice(("grey", "black"))), [_frame("grey_circle"), _frame("end_stripes")]


def _strokes(rng: np.random.Generator, x: float, height: float, width: float, colour: str) -> str:
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


def _symbol(rng: np.random.Generator) -> Image.Image:
    """Returns the outline of a real sign with an invented symbol on it."""
    weights = np.array([weight for *_, weight in _FRAMES], float)
    name, colour, _ = _FRAMES[rng.choice(len(_FRAMES), p=weights / weights.sum())]
    # The inner part of a triangle is small, and below or above the middle.
    y, size = {"red_triangle": (62, 38), "yield_triangle": (38, 38), "diamond": (50, 50)}.get(name, (50, 56))
    # Bars on a grey circle would look like the end of all restrictions, and those on a triangle like crossroads.
    bars = name not in ("grey_circle", "red_triangle")
    above = [_frame("end_stripes")] if name == "grey_circle" and rng.random() < 0.7 else []
    scale = size * rng.uniform(0.7, 1.1)
    return _draw_visible([_frame(name)], lambda: _content(rng, colour, 50, y, scale, bars=bars), above)


def _pictogram(rng: np.random.Generator) -> Image.Image:
    """Returns a warning sign, or a prohibition or the end of one, with a pictogram of several parts.

    Round signs often have two of them side by side, as those about overtaking.
    """
    choice = rng.choice(3, p=(0.6, 0.2, 0.2))
    name, y, size = (("red_triangle", 61, 42), ("red_circle", 50, 52), ("grey_circle", 50, 56))[choice]
    scale = size * rng.uniform(0.8, 1.1) / 100
    above = [_frame("end_stripes")] if choice == 2 else []
    draw_symbols = _two_figures if choice and rng.random() < 0.6 else _one_figure
    return _draw_visible([_frame(name)], lambda: draw_symbols(rng, y, scale), above)


def _one_figure(rng: np.random.Generator, y: float, scale: float) -> str:
    return _group(_figure(rng), 50, y, scale, PALETTE["black"])


def _two_figures(rng: np.random.Generator, y: float, scale: float) -> str:
    black, other = PALETTE["black"], PALETTE[str(rng.choice(("black", "grey", "red")))]
    left, first = _figure(rng), rng.random() < 0.5
    right = left if rng.random() < 0.4 else _figure(rng)
    away, half = 50 - rng.uniform(13, 18), scale * 0.62
    symbols = _group(left, away, y, half, other if first else black)
    return symbols + _group(right, 100 - away, y, half, black if first else other)


def _figure(rng: np.random.Generator) -> str:
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


def _group(elements: str, x: float, y: float, scale: float, colour: str) -> str:
    """Returns elements around (0, 0) at their place on the sign."""
    return (
        f'<g transform="translate({x:.1f} {y:.1f}) scale({scale:.3f})" color="{colour}" fill="currentColor" '
        f'stroke-linecap="round" stroke-linejoin="round">{elements}</g>'
    )


def _sign(rng: np.random.Generator) -> Image.Image:
    """Returns a sign with an invented outline in random colours, often with something on it."""
    corners = int(rng.choice(_SIDES))
    turn = rng.choice((0, 180, 180 / corners)) + (rng.uniform(0, 360) if rng.random() < 0.15 else 0)
    angles = np.radians(turn + np.arange(corners) * 360 / corners - 90)
    border, inner, symbol = rng.choice(list(PALETTE), 3, replace=False)
    if {border, inner} == {"red", "white"} and rng.random() < 0.7:
        border = rng.choice(("blue", "green", "black", "yellow"))  # otherwise it may be a real sign without a symbol
    outer = 46 if corners > 4 else 47
    width = rng.uniform(0, 0.4)
    rings = [(outer, "white"), (outer * 0.97, border), (outer * (1 - width), inner)]
    parts: list[Layer | str] = [_polygon(radius, angles, str(colour)) for radius, colour in rings]
    # Without a symbol, these may be real signs. Wheat and grey are yellow and white in another light.
    if {border, inner} <= {"red", "white", "black", "yellow", "wheat", "grey"} or rng.random() < 0.7:
        size = outer * 2 * (1 - width) * rng.uniform(0.4, 0.7)
        return _draw_visible(parts, lambda: _content(rng, str(symbol), 50, 50, size))
    return _draw(parts)


def unused_number(rng: np.random.Generator) -> str:
    """Returns a number that is on no sign of the catalogue."""
    used = _used_texts()
    while True:
        text = str(rng.integers(1, 100) if rng.random() < 0.75 else rng.integers(10, 25) * 10)
        if rng.random() < 0.1:
            text = f"0{text}"[-2:]
        if text not in used:
            return text


@functools.cache
def _used_texts() -> frozenset[str]:
    return frozenset(
        layer.text
        for description in drawings().descriptions.values()
        for layers in description.drawings
        for layer in layers
        if layer.text
    )


def _font_for(text: str, rng: np.random.Generator) -> str:
    """Returns a random typeface that has all characters."""
    return str(rng.choice([name for name, font in drawings().fonts.items() if font.glyphs.keys() >= set(text)]))


def _content(
    rng: np.random.Generator, colour: str, x: float, y: float, size: float, *, bars: bool = True
) -> Layer | str:
    """Returns a symbol: letters, lines, blobs, or also bars, about `size` wide and high."""
    choice = rng.integers(5 if bars else 4)
    if choice == 0:
        text = "".join(rng.choice(list(_CAPITALS), int(rng.integers(1, 4))))
        height = size * min(1, 2.2 / (len(text) + 0.6))
        text = text if text != "X" else "Y"  # an X is the symbol of crossroads
        return Layer(text=text, font=_font_for(text, rng), height=height, colour=colour, x=x, y=y)
    if choice == 1:
        elements = _lines(rng)
    elif choice == 2:
        elements = "".join(_blob(rng, rng.uniform(-25, 25, 2), rng.uniform(10, 30)) for _ in range(rng.integers(1, 5)))
    elif choice == 3:
        elements = _lines(rng) + _blob(rng, rng.uniform(-20, 20, 2), rng.uniform(8, 25))
    else:
        elements = _bars(rng)
    if choice > 0 and rng.random() < 0.35:  # many pictograms are symmetric
        elements += f'<g transform="scale(-1 1)">{elements}</g>'
    return _group(elements, x, y, size / 100, PALETTE[colour])


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


def _polygon(radius: float, angles: np.ndarray, colour: str) -> str:
    points = " ".join(f"{50 + radius * math.cos(a):.1f},{50 + radius * math.sin(a):.1f}" for a in angles)
    paint = PALETTE[colour]
    return f'<polygon points="{points}" style="fill:{paint};stroke:{paint}" stroke-width="4" stroke-linejoin="round"/>'


def _frame(shape: str) -> Layer:
    return Layer(shape=shape)


def _draw(parts: Sequence[Layer | str]) -> Image.Image:
    return drawings().compose(parts, 128)


def _draw_visible(
    below: Sequence[Layer | str], symbol: Callable[[], Layer | str], above: Sequence[Layer | str] = ()
) -> Image.Image:
    """Returns a sign with the first symbol that is large enough, and differs enough from its background."""
    without = np.asarray(_draw([*below, *above]), int)
    least = _LEAST_SYMBOL * (without[..., 3] > 0).sum()
    while True:
        image = _draw([*below, symbol(), *above])
        changed = np.abs(np.asarray(image, int) - without).max(axis=2) > 60  # of 255
        if changed.sum() >= least:
            return image


INVENTIONS: dict[str, Callable[[np.random.Generator], Image.Image]] = {
    "unused number": _unused_number,
    "number with an odd character": _odd_number,
    "invented symbol": _symbol,
    "invented pictogram": _pictogram,
    "invented sign": _sign,
}
"""The kinds of invented signs. Each function draws one: a square RGBA image, transparent outside of the outline."""
