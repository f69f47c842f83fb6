"""The results of the loop: the accuracy before and after, as a table and as a figure over time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table

from src.mlops.data.packing import open_pack
from src.mlops.demo.services import say
from src.mlops.demo.traffic import Answer
from src.mlops.evaluation.corruptions import SEVERITIES, corrupt
from src.mlops.evaluation.robustness import predicted_classes
from src.mlops.inference.classifier import Classifier
from src.mlops.io.figures import save_figure

_MOST = 4000  # test images
_EACH = 150  # images in one point of the figure


class Event(NamedTuple):
    """Something that happened."""

    time: float
    text: str


@dataclass
class Story:
    """What happened during the loop.

    Attributes:
        answers: The answers of the service.
        truth: The true class of each image of the camera.
        events: What happened, oldest first.
        labels: Number of labelled images.
    """

    answers: list[Answer]
    truth: Sequence[int]
    events: list[Event] = field(default_factory=list)
    labels: int = 0

    def add(self, text: str) -> None:
        """Notes and prints that something happened."""
        self.events.append(Event(time.time(), text))
        say(f"{text}.")

    def correct(self) -> NDArray[np.bool_]:
        """Returns which answers are right, bool [N]."""
        return np.array([self.truth[answer.number] == answer.predicted_class for answer in self.answers], bool)


class Row(NamedTuple):
    """A line of the table: the accuracies, 0 to 1, and the numbers of images."""

    name: str
    before: float
    after: float
    images: str


_HEAD = ("accuracy", "first model", "second model", "images")


def measure(story: Story, processed: Path, first: Path, second: Path) -> list[Row]:
    """Compares the two models on test images, clear and in fog, and on the traffic in fog.

    Args:
        story: What happened.
        processed: Folder of the prepared data.
        first: File of the first model.
        second: File of the second model.
    """
    arrays = open_pack(processed).load("test")
    some = np.random.default_rng(0).permutation(len(arrays.rows))[:_MOST]
    clear, labels = arrays.images[arrays.rows[some]], arrays.labels[some]
    models = [Classifier.load(file) for file in (first, second)]
    rows = []
    for name, images in {"clear": clear, "in the densest fog": corrupt(clear, "fog", max(SEVERITIES))}.items():
        before, after = (float((predicted_classes(model, images) == labels).mean()) for model in models)
        rows.append(Row(f"test images, {name}", before, after, f"{len(labels):,}"))
    fog = np.array([answer.severity == max(SEVERITIES) for answer in story.answers])
    own = np.array([answer.model_version == models[1].version for answer in story.answers])
    correct = story.correct()
    before, after = fog & ~own, fog & own
    counts = f"{before.sum():,} and {after.sum():,}"
    return [
        *rows,
        Row(
            "traffic in the densest fog, partly the labelled signs",
            float(correct[before].mean()),
            float(correct[after].mean()),
            counts,
        ),
    ]


def show(rows: Sequence[Row]) -> Table:
    """Returns the comparison as a table for the terminal."""
    table = Table(*_HEAD)
    for cells in _cells(rows):
        table.add_row(*cells)
    return table


def to_markdown(rows: Sequence[Row]) -> str:
    """Returns the comparison as a Markdown table."""
    lines = [_HEAD, ("---", "---:", "---:", "---:"), *_cells(rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return [(row.name, f"{row.before:.1%}", f"{row.after:.1%}", row.images) for row in rows]


def draw(story: Story, path: Path) -> None:
    """Draws the accuracy of the traffic over time, the fog, and what happened."""
    start = story.answers[0].time
    seconds = np.array([answer.time for answer in story.answers]) - start
    severity = np.array([answer.severity for answer in story.answers])
    parts = np.array_split(np.arange(len(seconds)), max(len(seconds) // _EACH, 1))
    correct = story.correct()
    accuracy = [100 * float(correct[part].mean()) for part in parts]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(seconds, 0, 100 * severity / max(SEVERITIES), step="post", color="#b8bcc2", alpha=0.45, lw=0)
    axes.plot([float(seconds[part].mean()) for part in parts], accuracy, color="#2a6fb0", marker="o", markersize=3)
    bottom = max(0.0, min(accuracy) - 12)
    for event in story.events[1:]:
        place = event.time - start
        axes.axvline(place, color="#c0392b", lw=1, ls=":")
        axes.annotate(
            event.text, (place, bottom), (4, 4), textcoords="offset points", rotation=90, va="bottom", fontsize=9
        )
    axes.set_xlim(0, 1.04 * seconds[-1])
    axes.set(xlabel="time, s", ylabel=f"accuracy of {_EACH} images, %", ylim=(bottom, 101))
    axes.set_title("Accuracy of the traffic; grey: density of the fog", fontsize=10)
    save_figure(figure, path)
