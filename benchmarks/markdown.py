"""Tables in Markdown, and how figures of several trials are written in them."""

import statistics
from collections import defaultdict

from scipy.stats import binomtest

_Rows = list[dict[str, str]]


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


def where(rows: _Rows) -> str:
    """Formats the dates, machines and versions of the rows."""
    seen = dict.fromkeys(
        f"{row['date']}, {row['cores']} cores of {row['cpu']}, {row['threads']} thread{'s' * (row['threads'] != '1')}, "
        f"Python {row['python']}, torch {row['torch']}"
        for row in rows
    )
    return f"\n*{'; '.join(seen)}.*\n" if seen else ""


def grouped(rows: _Rows, *columns: str) -> dict[tuple[str, ...], _Rows]:
    """Returns the rows by the values that they have in the columns."""
    groups: dict[tuple[str, ...], _Rows] = defaultdict(list)
    for row in rows:
        groups[tuple(row[column] for column in columns)].append(row)
    return groups


def seeds(rows: _Rows) -> str:
    """Formats the seeds of the rows."""
    return f"seed{'s' * (len(rows) > 1)} {', '.join(row['seed'] for row in rows)}"


def spread(values: list[float], *, percent: bool = False, digits: int = 2) -> str:
    """Formats the mean, and for several values also the lowest and highest value."""
    scaled = [100 * value for value in values] if percent else values
    mean = f"{statistics.mean(scaled):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(scaled):.{digits}f} to {max(scaled):.{digits}f})"


def interval(group: _Rows) -> str:
    """Formats the 95 % interval that the number of test images allows for the mean accuracy, in %.

    Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    images = int(group[0]["test_images"])
    wrong = round(statistics.mean(int(row["test_wrong"]) for row in group))
    found = binomtest(images - wrong, images).proportion_ci(method="wilson")
    return f"{100 * found.low:.2f} to {100 * found.high:.2f}"
