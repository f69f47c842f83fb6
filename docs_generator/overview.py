"""The project in one wide image, for README: a column per stage, with the steps of the architecture."""

from html import escape
from textwrap import wrap

from docs_generator.architecture import STAGES, STEPS, Step, way
from docs_generator.svg import FONT, svg

COLUMN, GAP, MARGIN = 200, 24, 14  # px
WIDTH = 2 * MARGIN + len(STAGES) * (COLUMN + GAP) - GAP
HEAD, LINE, PADDING = 44, 21, 12
LINES = 3  # of a step: two of its title, and its command


def overview() -> str:
    """Returns the image as SVG."""
    columns = [[numbered for numbered in enumerate(STEPS, start=1) if numbered[1].stage == stage] for stage in STAGES]
    bottom = MARGIN + HEAD + max(map(len, columns)) * (LINES * LINE + PADDING) + PADDING
    shapes: list[str] = []
    for place, (stage, steps) in enumerate(zip(STAGES, columns, strict=True)):
        shapes += _column(MARGIN + place * (COLUMN + GAP), bottom, stage, steps)
    for place in range(1, len(STAGES)):
        end = MARGIN + place * (COLUMN + GAP)
        shapes.append(_arrow(f"M{end - GAP + 2} {MARGIN + HEAD / 2:.0f}H{end - 2}"))
    first, last = MARGIN + COLUMN // 2, WIDTH - MARGIN - COLUMN // 2
    shapes.append(_arrow(f"M{last} {bottom + 2}V{bottom + 26}H{first}V{bottom + 4}", "stroke-dasharray='6 5'"))
    shapes.append(_text(WIDTH // 2, bottom + 46, "retrain with labelled images", "#222", "text-anchor='middle'"))
    return svg(WIDTH, bottom + 52, way(), shapes)


def _column(left: int, bottom: int, stage: str, steps: list[tuple[int, Step]]) -> list[str]:
    colour = STAGES[stage]
    middle = "text-anchor='middle' font-weight='600' font-size='18'"
    shapes = [
        f"<rect x='{left}' y='{MARGIN}' width='{COLUMN}' height='{bottom - MARGIN}' rx='8' fill='#f6f7f9'"
        f" stroke='{colour}' stroke-width='2'/>",
        f"<rect x='{left}' y='{MARGIN}' width='{COLUMN}' height='{HEAD}' rx='8' fill='{colour}'/>",
        _text(left + COLUMN // 2, MARGIN + 28, stage, "#fff", middle),
    ]
    top = MARGIN + HEAD + PADDING
    for number, step in steps:
        lines = wrap(f"{number}. {step.title}", 20)
        for place, line in enumerate(lines, start=1):
            shapes.append(_text(left + PADDING, top + place * LINE - 5, line, "#222", "font-weight='600'"))
        shapes.append(_text(left + PADDING, top + (len(lines) + 1) * LINE - 5, f"inv {step.command}", colour))
        top += LINES * LINE + PADDING
    return shapes


def _arrow(path: str, style: str = "") -> str:
    return f"<path d='{path}' fill='none' stroke='#444' stroke-width='2' {style} marker-end='url(#head)'/>"


def _text(x: int, y: int, content: str, colour: str, style: str = "") -> str:
    size = "" if "font-size" in style else "font-size='15' "
    return f"<text x='{x}' y='{y}' {FONT} {size}fill='{colour}' {style}>{escape(content)}</text>"
