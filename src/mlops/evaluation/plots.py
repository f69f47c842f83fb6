"""The figures: learning curves, confusion matrix, bars per class, worst mistakes, and a sheet of the data.

`python -m src.mlops.visualize` draws the sheet of the prepared data.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from src.mlops.config import Config, hydra_main
from src.mlops.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from src.mlops.data.packing import Pack, SplitArrays
from src.mlops.data.prepare import prepare
from src.mlops.data.signs import NUM_CLASSES, SIGNS
from src.mlops.errors import DataError

logger = logging.getLogger(__name__)
_BLUE, _RED, _GREY = "#2a6fb0", "#c0392b", "#9aa5b1"
_GALLERY = (4, 6)  # rows and columns of the worst mistakes


def draw_learning_curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draws loss, and the share of wrong answers on a logarithmic scale, over the epochs."""
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for prefix, label, colour in (("train", "training (augmented)", _GREY), ("val", "validation", _BLUE)):
        left.plot(epochs, [row[f"{prefix}_loss"] for row in history], marker=".", label=label, color=colour)
        # A logarithm needs something to show where nothing is wrong: the smallest share a plot can tell from none.
        wrong = [max(100 * (1 - row[f"{prefix}_Accuracy"]), 0.01) for row in history]
        right.plot(epochs, wrong, marker=".", label=label, color=colour)
    left.set(title="Loss", xlabel="epoch")
    right.set(title="Wrong answers in %", xlabel="epoch", yscale="log")
    right.yaxis.set_major_formatter("{x:g}")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def draw_evaluation(
    results: dict[str, Any],
    predictions: pd.DataFrame,
    arrays: SplitArrays,
    history: Sequence[dict[str, float]],
    folder: Path,
) -> None:
    """Draws all figures of an evaluation.

    Args:
        results: Content of `metrics.json`.
        predictions: One row per image: `class_id`, `predicted_class`, `probability`.
        arrays: The images, in the same order.
        history: Metrics of the training's epochs.
        folder: Where the PNG files go.
    """
    draw_learning_curves(history, folder / "learning_curves.png")
    draw_confusion_matrix(predictions, results, folder / "confusion_matrix.png")
    draw_class_bars(results, folder / "per_class.png")
    draw_reliability(results, predictions, folder / "reliability.png")
    draw_mistakes(predictions, arrays, folder / "worst_mistakes.png")


def draw_confusion_matrix(predictions: pd.DataFrame, results: dict[str, Any], path: Path) -> None:
    """Draws which class is taken for which; mistakes are red and numbered, right answers blue."""
    counts = np.zeros((NUM_CLASSES, NUM_CLASSES), int)
    np.add.at(counts, (predictions["class_id"], predictions["predicted_class"]), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(13, 12), layout="constrained")
    axes = figure.subplots()
    right = np.eye(NUM_CLASSES, dtype=bool)
    # Mistakes are a small share of a row, so they get a scale of their own.
    axes.imshow(np.ma.masked_where(~right | (counts == 0), shares), cmap="Blues", vmin=0, vmax=1.6)
    axes.imshow(np.ma.masked_where(right | (counts == 0), shares**0.5), cmap="Reds", vmin=0, vmax=1)
    for truth, answer in zip(*np.nonzero(counts * ~right), strict=True):
        axes.text(answer, truth, counts[truth, answer], ha="center", va="center", fontsize=8)
    axes.set(
        title=f"{results['errors']} of {results['images']} {results['split']} images wrong "
        f"(accuracy {100 * results['Accuracy']:.2f} %)",
        xlabel="predicted class",
        xticks=range(NUM_CLASSES),
        yticks=range(NUM_CLASSES),
    )
    axes.set_yticklabels([f"{sign.name}  {sign.class_id}" for sign in SIGNS], fontsize=8)
    axes.tick_params("x", labelsize=8)
    axes.grid(alpha=0.15)
    _save(figure, path)


def draw_class_bars(results: dict[str, Any], path: Path) -> None:
    """Draws the F1 score of every class, worst first."""
    classes = sorted(results["classes"], key=lambda row: row["f1"])
    figure = Figure(figsize=(9, 0.2 * len(classes) + 1.5), layout="constrained")
    axes = figure.subplots()
    scores = [row["f1"] for row in classes]
    axes.barh(range(len(classes)), scores, color=[_RED if score < 0.98 else _BLUE for score in scores])
    lowest = min(scores)
    axes.set(
        title=f"F1 per class on the {results['split']} images (red: below 0.98)",
        xlim=(max(0.0, lowest - 0.05) if lowest > 0.5 else 0.0, 1.02),
        yticks=range(len(classes)),
    )
    axes.set_yticklabels([f"{row['name']} ({row['images']} images)" for row in classes], fontsize=7)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    for place, score in enumerate(scores):
        axes.text(score, place, f" {score:.3f}", va="center", fontsize=7)
    _save(figure, path)


def draw_mistakes(predictions: pd.DataFrame, arrays: SplitArrays, path: Path) -> None:
    """Draws the wrong answers that the model was surest of."""
    wrong = predictions[predictions["class_id"] != predictions["predicted_class"]]
    worst = wrong.sort_values("probability", ascending=False).head(_GALLERY[0] * _GALLERY[1])
    if worst.empty:
        figure = Figure(figsize=(6, 1.5))
        figure.text(0.5, 0.5, "No image was classified wrongly.", ha="center", va="center")
        _save(figure, path)
        return
    rows = -(-len(worst) // _GALLERY[1])
    figure = Figure(figsize=(2.1 * _GALLERY[1], 2.7 * rows), layout="constrained")
    figure.suptitle(f"The {len(worst)} surest of {len(wrong)} mistakes: true class → answer")
    panels = figure.subplots(rows, _GALLERY[1], squeeze=False).flat
    for axes, place in zip(panels, worst.index.to_numpy(), strict=False):
        row = worst.loc[place]
        axes.imshow(arrays.images[arrays.rows[place]])
        truth, answer = SIGNS[row["class_id"]].name, SIGNS[row["predicted_class"]].name
        axes.set_title(f"{truth}\n→ {answer}\n{row['probability']:.0%}", fontsize=6.5)
    for axes in figure.axes:
        axes.set_axis_off()
    _save(figure, path)


def draw_data_sheet(pack: Pack, path: Path) -> None:
    """Draws one training image of each class with its number of images."""
    arrays = pack.load("train")
    figure = Figure(figsize=(13, 9), layout="constrained")
    figure.suptitle(f"{len(arrays.rows):,} training images: the classes, their German sign numbers and their images")
    panels = figure.subplots(5, 9).flat
    for sign, axes in zip(SIGNS, panels, strict=False):
        members = np.flatnonzero(arrays.labels == sign.class_id)
        axes.set_title(f"{sign.class_id}: {sign.number}\n{sign.name}\n{len(members):,}", fontsize=6.5)
        if len(members):
            axes.imshow(arrays.images[arrays.rows[members[2 * len(members) // 3]]])
    for axes in figure.axes:
        axes.set_axis_off()
    _save(figure, path)


def draw_importances(importances: Mapping[str, float], trials: int, path: Path) -> None:
    """Draws how much of the trials' difference each hyper-parameter explains."""
    figure = Figure(figsize=(8, 0.5 * len(importances) + 1.5), layout="constrained")
    axes = figure.subplots()
    names = sorted(importances, key=lambda name: importances[name])
    bars = axes.barh(names, [importances[name] for name in names], color=_BLUE)
    axes.bar_label(bars, fmt=" %.2f")
    axes.set(title=f"Share of the difference in accuracy that each explains ({trials} trials)", xlim=(0, 1.1))
    _save(figure, path)


def draw_robustness(results: Mapping[str, Any], path: Path) -> None:
    """Draws accuracy by corruption and severity as a heat map, the mildest corruption first."""
    rows = sorted(results["accuracy"].items(), key=lambda row: -float(np.mean(row[1])))
    shares = 100 * np.array([[results["clean"], *accuracies] for _, accuracies in rows])
    figure = Figure(figsize=(7.5, 0.42 * len(rows) + 1.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="RdYlGn", vmin=50, vmax=100, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        axes.text(column, row, f"{share:.1f}", ha="center", va="center", fontsize=9)
    axes.set(
        title=f"Accuracy in % on {results['images']:,} {results['split']} images, by severity of corruption",
        xticks=range(shares.shape[1]),
        yticks=range(len(rows)),
    )
    axes.set_xticklabels(["none", *map(str, SEVERITIES)])
    axes.set_yticklabels([name for name, _ in rows])
    _save(figure, path)


def draw_corrupted(image: NDArray[np.uint8], path: Path) -> None:
    """Draws one image under every corruption and severity, so that the figures can be judged."""
    figure = Figure(figsize=(1.1 * len(SEVERITIES) + 1.2, 1.1 * len(CORRUPTIONS)), layout="constrained")
    for axes, name in zip(figure.subplots(len(CORRUPTIONS), len(SEVERITIES)), CORRUPTIONS, strict=True):
        for panel, severity in zip(axes, SEVERITIES, strict=True):
            panel.imshow(corrupt(image[None], name, severity)[0])
            panel.set(xticks=[], yticks=[])
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center")
    _save(figure, path)


def draw_reliability(results: Mapping[str, Any], predictions: pd.DataFrame, path: Path) -> None:
    """Draws how often answers of a stated probability are right, in 15 bins (Guo et al. 2017)."""
    confidence = predictions["probability"].to_numpy()
    correct = (predictions["class_id"] == predictions["predicted_class"]).to_numpy(float)
    place = np.minimum((15 * confidence).astype(int), 14)
    counts = np.bincount(place, minlength=15)
    filled = counts > 0
    accuracy = np.bincount(place, correct, 15)[filled] / counts[filled]
    stated = np.bincount(place, confidence, 15)[filled] / counts[filled]
    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="honest")
    axes.plot(stated, accuracy, "o-", color=_BLUE, label="this model")
    for x, y, count in zip(stated, accuracy, counts[filled], strict=True):
        axes.annotate(f"{count:,}", (x, y), xytext=(5, -9), textcoords="offset points", fontsize=7)
    axes.set(
        title=f"Calibration error {results['expected_calibration_error']:.4f} on the {results['split']} images "
        "(numbers: images)",
        xlabel="stated probability",
        ylabel="share of right answers",
        xlim=(0, 1.05),
        ylim=(0, 1.05),
    )
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)


def main(config: Config) -> None:
    """Draws the sheet of the prepared data."""
    path = config.evaluation.reports_dir / "figures" / "data_sheet.png"
    pack = prepare(config.data)
    try:
        draw_data_sheet(pack, path)
    except OSError as error:
        raise DataError(f"expected to write {path}, found: {error}.") from error
    logger.info("drew %s", path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    hydra_main(main)
