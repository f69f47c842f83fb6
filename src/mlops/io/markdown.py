"""Names, texts and tables in generated Markdown."""

import re

_SPECIAL = re.compile(r"[\\`*_{}\[\]<>|#~$]")  # characters with a meaning in Markdown


def plain(name: str) -> str:
    """Returns a name whose characters have no meaning in Markdown."""
    return _SPECIAL.sub(r"\\\g<0>", name)


def cell(text: str) -> str:
    """Returns Markdown that fits in the cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: str, rows: list[list[str]]) -> str:
    """Returns a table.

    Args:
        head: Names of the columns, separated by `|`.
        rows: The cells of each row.
    """
    columns = head.split("|")
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [columns, ["---"] * len(columns), *rows])
