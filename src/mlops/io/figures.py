"""Writes figures."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from src.mlops.io.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes a figure with 110 dpi in the format of its suffix, atomically, and creates the parent folder."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        # No font has all scripts. A missing character is drawn as a box, which is no reason to warn hundreds of times.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(content, format=path.suffix[1:], dpi=110)
    write_atomically(path, content.getvalue())


def label(name: str, width: int = 40) -> str:
    """Returns a name for a figure: shortened to `width` characters, with `$` as a plain character."""
    shown = name if len(name) <= width else f"{name[: width - 1].rstrip()}…"
    return shown.replace("$", r"\$")
