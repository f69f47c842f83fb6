"""What the diagrams have in common."""

from collections.abc import Iterable
from html import escape

FONT = "font-family='system-ui, sans-serif'"
_ARROWHEAD = (
    "<defs><marker id='head' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
    "<path d='M0 0L8 4L0 8z' fill='#444'/></marker></defs>\n"
)


def svg(width: int, height: int, title: str, shapes: Iterable[str]) -> str:
    """Returns an SVG file. It has a background, so that it is legible in dark mode, and the arrowhead `#head`.

    Args:
        width: Width in px.
        height: Height in px.
        title: What the image shows, for people who do not see it.
        shapes: The elements of the image.
    """
    background = f"<rect width='{width}' height='{height}' rx='10' fill='#ffffff'/>"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}'"
        f" role='img'>\n<title>{escape(title)}</title>\n{_ARROWHEAD}" + "\n".join([background, *shapes]) + "\n</svg>\n"
    )
