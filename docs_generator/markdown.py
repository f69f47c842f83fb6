"""Texts of the code as Markdown."""

import re


def cell(text: str) -> str:
    """Returns a text for the cell of a table: in one line, and without tags of HTML outside of code."""
    line = " ".join(text.split()).replace("|", "\\|")
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in re.split(r"(`[^`]*`)", line))
