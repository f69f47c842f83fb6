"""Progress bars."""

import sys
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from typing import NoReturn


def progress_bar(description: str, total: int, done: int = 0) -> "tqdm[NoReturn]":
    """Returns a progress bar on stderr that disappears when it is closed; in a log file, one line every ten seconds.

    Args:
        description: Name of the task.
        total: Number of steps.
        done: Number of steps that are already done.
    """
    terminal = sys.stderr.isatty()
    interval = 0.1 if terminal else 10.0  # seconds between updates
    return tqdm(
        desc=description,
        total=total,
        initial=done,
        delay=interval,
        mininterval=interval,
        leave=not terminal,
        dynamic_ncols=True,
        bar_format=None if terminal else "{desc}: {n_fmt}/{total_fmt}, {remaining} left\n",
    )
