"""Draws signs that do not exist: numbers that are on no sign, invented symbols, outlines and colours.

No pictogram of a real sign is used, so a class that is left out of a training stays unseen. Real outlines always have
something on them that no real sign has.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from src.mlops.data.synthetic.description import PALETTE, Layer
from src.mlops.data.synthetic.drawing import drawings
from src.mlops.data.synthetic.symbols import (
    draw_arrow,
    draw_column,
    draw_figure,
    draw_odd_character,
    draw_symbol,
    font_for,
    group,
    used_texts,
)

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
_LETTERS = "ACEFHJKLMNPRTUVWXY"  # those that do not look like a digit
# Share of a sign that its symbol covers at least. With less, it looks like one without a symbol, such as "give way".
_LEAST_SYMBOL = 0.02


def _unused_number(rng: np.random.Generator) -> Image.Image:
    """Returns a speed limit, or the end of one, with a number that is on no sign."""
    text = unused_number(rng)
    height = rng.uniform(36, 48) * min(1, 2.4 / len(text))
    colour, parts = _number_frame(rng)
    digits = Layer(text=text, font=font_for(text, rng), height=height, spacing=rng.uniform(6, 18), colour=colour)
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
        digits = "111123456789" if count == 3 and place == 0 else "123456789"  # most long limits begin with 1
        character = "0" if place == count - 1 else str(rng.choice(list(digits)))
        if place != odd:
            parts.append(Layer(text=character, font=font, height=height, colour=colour, x=x))
        elif rng.random() < 0.4:
            parts.append(draw_odd_character(rng, x, height, width, colour))
        elif rng.random() < 0.5:
            parts.append(Layer(text=str(rng.choice(list(_LETTERS))), font=font, height=height, colour=colour, x=x))
        else:
            digit, turned = str(rng.choice(list("2345"))), bool(rng.random() < 0.5)
            turned = turned and digit in "34"  # 2 and 5 look like themselves if they are turned
            turn = 180.0 if turned else 0.0
            glyph = Layer(text=digit, font=font, height=height, colour=colour, x=x, mirror=not turned, turn=turn)
            parts.append(
                glyph if digit in drawings().fonts[font].glyphs else draw_odd_character(rng, x, height, width, colour)
            )
    return _draw([*parts, *above])


def _number_frame(rng: np.random.Generator) -> tuple[str, list[Layer]]:
    """Returns the colour of the digits, the outline, and for the end of a limit what is above the digits."""
    if rng.random() < 0.75:
        return "black", [_frame("red_circle")]
    return str(rng.choice(("grey", "black"))), [_frame("grey_circle"), _frame("end_stripes")]


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
    return _draw_visible([_frame(name)], lambda: draw_symbol(rng, colour, 50, y, scale, bars=bars), above)


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


def _column(rng: np.random.Generator) -> Image.Image:
    """Returns a warning sign with dots and bars one above the other, or sometimes a prohibition."""
    name, y, size = (("red_triangle", 62, 44), ("red_circle", 50, 56))[rng.choice(2, p=(0.85, 0.15))]
    scale = size * rng.uniform(0.8, 1.1) / 100
    return _draw_visible([_frame(name)], lambda: group(draw_column(rng), 50, y, scale, PALETTE["black"]))


def _one_figure(rng: np.random.Generator, y: float, scale: float) -> str:
    return group(draw_figure(rng), 50, y, scale, PALETTE["black"])


def _two_figures(rng: np.random.Generator, y: float, scale: float) -> str:
    black, other = PALETTE["black"], PALETTE[str(rng.choice(("black", "grey", "red")))]
    left, first = draw_figure(rng), rng.random() < 0.5
    right = left if rng.random() < 0.4 else draw_figure(rng)
    away, half = 50 - rng.uniform(13, 18), scale * 0.62
    symbols = group(left, away, y, half, other if first else black)
    return symbols + group(right, 100 - away, y, half, black if first else other)


def _mandatory(rng: np.random.Generator) -> Image.Image:
    """Returns a blue sign with an arrow, or with one or two pictograms."""
    choice = rng.integers(3)
    if choice < 2:
        arrows = "".join(draw_arrow(rng) for _ in range(int(choice) + 1))
        return _draw([_frame("blue_circle"), group(arrows, 50, 50, rng.uniform(0.7, 0.9), PALETTE["white"])])
    places = ((50, 50),) if rng.random() < 0.5 else (((50, 33), (50, 67)), ((34, 50), (66, 50)))[rng.integers(2)]
    scale = rng.uniform(0.45, 0.6) / len(places) ** 0.7
    figures = "".join(group(draw_figure(rng), x, y, scale, PALETTE["white"]) for x, y in places)
    return _draw([_frame("blue_circle"), figures])


def _ended(rng: np.random.Generator) -> Image.Image:
    """Returns the end of a sign that has none: an outline with a symbol, and stripes across it."""
    name = str(rng.choice(("diamond_plain", "diamond", "red_circle", "blue_circle", "octagon", "red_triangle")))
    colour = str(rng.choice(("white", "black", "yellow", "red")))
    return _draw([_frame(name), draw_symbol(rng, colour, 50, 50, rng.uniform(30, 50)), _frame("end_stripes")])


def _panel(rng: np.random.Generator) -> Image.Image:
    """Returns a rectangular panel with a smaller invented sign on it, as those of zones have."""
    ground, ink = (("white", "black"), ("yellow", "black"), ("blue", "white"), ("green", "white"))[
        rng.choice(4, p=(0.55, 0.15, 0.2, 0.1))
    ]
    inset = rng.uniform(3, 6)
    parts: list[Layer | str] = [
        f'<rect x="1" y="1" width="98" height="98" rx="5" style="fill:{PALETTE[ground]}"/>',
        f'<rect x="{inset:.1f}" y="{inset:.1f}" width="{100 - 2 * inset:.1f}" height="{100 - 2 * inset:.1f}" rx="3" '
        f'fill="none" style="stroke:{PALETTE[ink]}" stroke-width="2"/>',
    ]
    low = rng.random() < 0.7
    if low:
        word = "".join(rng.choice(list(_LETTERS), int(rng.integers(3, 6))))
        parts.append(Layer(text=word, font=font_for(word, rng), height=rng.uniform(10, 15), colour=ink, y=84))
    panel = drawings().compose(parts, 200)
    sign = (_unused_number, _odd_number, _symbol, _pictogram)[rng.integers(4)](rng)
    left = (panel.width - sign.width) // 2
    panel.alpha_composite(sign, (left, 16 if low else left))
    return panel


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
        return _draw_visible(parts, lambda: draw_symbol(rng, str(symbol), 50, 50, size))
    return _draw(parts)


def unused_number(rng: np.random.Generator) -> str:
    """Returns a number that is on no sign of the catalogue."""
    used = used_texts()
    while True:
        text = str(rng.integers(1, 100) if rng.random() < 0.75 else rng.integers(10, 25) * 10)
        if rng.random() < 0.1:
            text = f"0{text}"[-2:]
        if text not in used:
            return text


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
    "invented column": _column,
    "invented mandatory sign": _mandatory,
    "end of an invented sign": _ended,
    "invented panel": _panel,
    "invented sign": _sign,
}
"""The kinds of invented signs. Each function draws one: a square RGBA image, transparent outside of the outline.

A symbol is a letter, a line, a bar or a blob; a pictogram has several parts, most of them upright; a column consists of
dots and bars; and an invented sign also has an outline and colours of its own.
"""
