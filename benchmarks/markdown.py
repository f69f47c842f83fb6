"""Tables in Markdown."""


def markdown_table(head: str, rows: list[list[str]]) -> str:
    """Returns a table.

    Args:
        head: Names of the columns, separated by `|`.
        rows: The cells of each row.
    """
    if not rows:
        return "*Not measured yet.*\n"
    lines = [head.split("|"), ["---"] * len(head.split("|")), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def where(rows: list[dict[str, str]]) -> str:
    """Formats the dates, machines and versions of the rows."""
    seen = dict.fromkeys(
        f"{row['date']}, {row['cores']} cores of {row['cpu']}, {row['threads']} thread{'s' * (row['threads'] != '1')}, "
        f"Python {row['python']}, torch {row['torch']}"
        for row in rows
    )
    return f"\n*{'; '.join(seen)}.*\n" if seen else ""
