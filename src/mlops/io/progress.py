"""Progress of long commands: a live bar on a terminal, a log line now and then elsewhere."""

import logging
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)
LOG_INTERVAL = 10.0  # seconds between two log lines where there is no terminal


class ProgressBar:
    """Shows how far a command is; used as a context manager.

    Args:
        description: What is being done.
        total: Number of steps.
    """

    def __init__(self, description: str, total: int) -> None:
        self._description = description
        self._total = total
        self._started = self._logged = time.monotonic()
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(description, total=total, note="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, done: int, note: str = "") -> None:
        """Shows the state.

        Args:
            done: How many steps are done in all.
            note: What to show beside the count, for example a loss.
        """
        if self._bar:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self._logged >= LOG_INTERVAL:
            self._logged = now
            left = (now - self._started) / max(done, 1) * (self._total - done)
            logger.info("%s: %d/%d  %s  %.0f s left", self._description, done, self._total, note, left)
