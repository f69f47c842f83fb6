"""Tables of results in Markdown."""

from src.mlops.io.markdown import table


def markdown_table(head: str, rows: list[list[str]]) -> str:
    """Returns a table.

    Args:
        head: Names of the columns, separated by `|`.
        rows: The cells of each row.
    """
    return table(head, rows) if rows else "*Not measured yet.*\n"


def where(rows: list[dict[str, str]]) -> str:
    """Formats the dates, machines and versions of the rows."""
    seen = dict.fromkeys(
        f"{row['date']}, {row['cores']} cores of {row['cpu']}, {row['threads']} thread{'s' * (row['threads'] != '1')}, "
        f"Python {row['python']}, torch {row['torch']}"
        for row in rows
    )
    return f"\n*{'; '.join(seen)}.*\n" if seen else ""
