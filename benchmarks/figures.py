"""How the figures of several trials are written."""

import statistics
from collections import defaultdict

from scipy.stats import binomtest

_Rows = list[dict[str, str]]


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

    All trials have the same test images, so several trials do not make it narrower.
    """
    return wilson(round(statistics.mean(int(row["test_wrong"]) for row in group)), int(group[0]["test_images"]))


def wilson(wrong: int, images: int) -> str:
    """Formats the 95 % interval of an accuracy, in %.

    Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    found = binomtest(images - wrong, images).proportion_ci(method="wilson")
    return f"{100 * found.low:.2f} to {100 * found.high:.2f}"
