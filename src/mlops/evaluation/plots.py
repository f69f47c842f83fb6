"""Draws the figures of an evaluation: confusion matrix, F1, mistakes, label errors, reliability, robustness."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from src.mlops.data.classes import ClassList
from src.mlops.data.packing import SplitArrays
from src.mlops.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from src.mlops.evaluation.stickers import sticker_versions
from src.mlops.inference.classifier import Classifier
from src.mlops.io.figures import label, save_figure
from src.mlops.training.plots import draw_learning_curves

_BLUE, _RED = "#2a6fb0", "#c0392b"
_MOST = 60  # classes in a figure; more cannot be read
_COLUMNS = 6  # of images in a gallery
_MISTAKES, _LABEL_ERRORS, _WITH_STICKERS = 24, 48, 4  # images in their galleries


def draw_evaluation(
    results: dict[str, Any],
    predictions: pd.DataFrame,
    arrays: SplitArrays,
    classes: ClassList,
    history: Sequence[dict[str, float]],
    folder: Path,
) -> None:
    """Draws all figures of an evaluation.

    Args:
        results: Content of `metrics.json`.
        predictions: One row per image: `class_id`, `predicted_class`, `probability`.
        arrays: The images, in the same order.
        classes: The class list.
        history: Metrics of each epoch of the training.
        folder: Folder of the PNG files.
    """
    draw_learning_curves(history, folder / "learning_curves.png")
    draw_results(results, predictions, arrays, classes, folder)


def draw_results(
    results: dict[str, Any], predictions: pd.DataFrame, arrays: SplitArrays, classes: ClassList, folder: Path
) -> None:
    """Draws the figures of an evaluation that are not about the training, see `draw_evaluation`."""
    draw_confusion_matrix(predictions, results, classes, folder / "confusion_matrix.png")
    draw_class_bars(results, folder / "per_class.png")
    draw_reliability(results, predictions, folder / "reliability.png")
    draw_mistakes(predictions, arrays, classes, folder / "worst_mistakes.png")


def draw_confusion_matrix(predictions: pd.DataFrame, results: dict[str, Any], classes: ClassList, path: Path) -> None:
    """Draws the confusion matrix. Mistakes are red with their count, correct predictions are blue.

    It shows the classes that occur. Of more than 60, it shows those with the most mistakes.
    """
    everything = np.zeros((len(classes), len(classes)), int)
    np.add.at(everything, (predictions["class_id"], predictions["predicted_class"]), 1)
    mistakes = everything * ~np.eye(len(classes), dtype=bool)
    found = np.flatnonzero(everything.sum(axis=0) + everything.sum(axis=1))
    most = np.argsort(-(mistakes.sum(axis=0) + mistakes.sum(axis=1))[found], kind="stable")[:_MOST]
    shown = np.sort(found[most])
    counts = everything[np.ix_(shown, shown)]
    shares = counts / np.maximum(everything[shown].sum(axis=1, keepdims=True), 1)
    some = "" if len(shown) == len(found) else f"; the {len(shown)} of {len(found)} classes with most mistakes"
    side = 5 + 0.19 * len(shown)
    figure = Figure(figsize=(side, side - 1), layout="constrained")
    axes = figure.subplots()
    right = np.eye(len(shown), dtype=bool)
    # Mistakes are a small share of a row, so they need their own colour scale.
    axes.imshow(np.ma.masked_where(~right | (counts == 0), shares), cmap="Blues", vmin=0, vmax=1.6)
    axes.imshow(np.ma.masked_where(right | (counts == 0), shares**0.5), cmap="Reds", vmin=0, vmax=1)
    for truth, answer in zip(*np.nonzero(counts * ~right), strict=True):
        axes.text(answer, truth, counts[truth, answer], ha="center", va="center", fontsize=8)
    axes.set(
        title=f"{results['errors']} of {results['images']} {results['split']} images misclassified "
        f"(accuracy {100 * results['Accuracy']:.2f} %){some}",
        xlabel="predicted class",
        ylabel="true class",
        xticks=range(len(shown)),
        yticks=range(len(shown)),
    )
    axes.set_xticklabels([str(class_id) for class_id in shown], rotation=90 if len(classes) > 100 else 0)
    axes.set_yticklabels([f"{label(classes[class_id].name)}  {class_id}" for class_id in shown], fontsize=8)
    axes.tick_params("x", labelsize=8)
    axes.grid(alpha=0.15)
    save_figure(figure, path)


def draw_class_bars(results: dict[str, Any], path: Path) -> None:
    """Draws the F1 score of the classes, worst first, and of at most 60 classes."""
    rows = sorted(results["classes"], key=lambda row: row["f1"])
    classes = rows[:_MOST]
    some = "" if len(classes) == len(rows) else f"; the lowest {len(classes)} of {len(rows)}"
    figure = Figure(figsize=(9, 0.2 * len(classes) + 1.5), layout="constrained")
    axes = figure.subplots()
    scores = [row["f1"] for row in classes]
    axes.barh(range(len(classes)), scores, color=[_RED if score < 0.98 else _BLUE for score in scores])
    lowest = min(scores)
    axes.set(
        title=f"F1 per class on the {results['split']} images (red: below 0.98){some}",
        xlim=(max(0.0, lowest - 0.05) if lowest > 0.5 else 0.0, 1.02),
        yticks=range(len(classes)),
    )
    axes.set_yticklabels([f"{label(row['name'])} ({row['images']} images)" for row in classes], fontsize=7)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    for place, score in enumerate(scores):
        axes.text(score, place, f" {score:.3f}", va="center", fontsize=7)
    save_figure(figure, path)


def draw_mistakes(predictions: pd.DataFrame, arrays: SplitArrays, classes: ClassList, path: Path) -> None:
    """Draws the mistakes with the highest predicted probability."""
    wrong = predictions[predictions["class_id"] != predictions["predicted_class"]]
    worst = wrong.sort_values("probability", ascending=False).head(_MISTAKES)
    title = f"The {len(worst)} most confident of {len(wrong)} mistakes: true class → predicted class"
    _draw_gallery(worst, title if len(worst) else "No image was misclassified.", arrays, classes, path)


def draw_label_errors(doubtful: pd.DataFrame, arrays: SplitArrays, classes: ClassList, path: Path) -> None:
    """Draws the images whose label is probably wrong.

    Args:
        doubtful: The most doubtful image first, with the position of each image in `arrays` as the index:
            `class_id`, `predicted_class` and `predicted_probability`.
        arrays: The images.
        classes: The class list.
        path: The PNG file.
    """
    shown = doubtful.head(_LABEL_ERRORS).rename(columns={"predicted_probability": "probability"})
    title = f"The first {len(shown)} of {len(doubtful)} images with a doubtful label: label → predicted class"
    _draw_gallery(shown, title if len(shown) else "No label is doubtful.", arrays, classes, path)


def _draw_gallery(rows: pd.DataFrame, title: str, arrays: SplitArrays, classes: ClassList, path: Path) -> None:
    """Draws one image per row, which has its position in `arrays` as the index."""
    if rows.empty:
        figure = Figure(figsize=(6, 1.5))
        figure.text(0.5, 0.5, title, ha="center", va="center")
        save_figure(figure, path)
        return
    height = -(-len(rows) // _COLUMNS)
    figure = Figure(figsize=(2.1 * _COLUMNS, 2.7 * height), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(height, _COLUMNS, squeeze=False).flat
    for axes, place in zip(panels, rows.index.to_numpy(), strict=False):
        row = rows.loc[place]
        axes.imshow(arrays.images[arrays.rows[place]])
        truth, answer = (label(classes[row[column]].name, 30) for column in ("class_id", "predicted_class"))
        axes.set_title(f"{truth}\n→ {answer}\n{row['probability']:.0%}", fontsize=6.5)
    for axes in figure.axes:
        axes.set_axis_off()
    save_figure(figure, path)


def draw_robustness(results: Mapping[str, Any], path: Path) -> None:
    """Draws a heat map of accuracy by corruption and severity, with the corruption of the highest accuracy first."""
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
    save_figure(figure, path)


def draw_corrupted(image: NDArray[np.uint8], path: Path) -> None:
    """Draws one image with every corruption and severity, as a reference for the results."""
    figure = Figure(figsize=(1.1 * len(SEVERITIES) + 1.2, 1.1 * len(CORRUPTIONS)), layout="constrained")
    for axes, name in zip(figure.subplots(len(CORRUPTIONS), len(SEVERITIES)), CORRUPTIONS, strict=True):
        for panel, severity in zip(axes, SEVERITIES, strict=True):
            panel.imshow(corrupt(image[None], name, severity)[0])
            panel.set(xticks=[], yticks=[])
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center")
    save_figure(figure, path)


def draw_stickers(classifier: Classifier, images: NDArray[np.uint8], path: Path) -> None:
    """Draws images without stickers, and with stickers that cover each share of the sign at each kind of place.

    Args:
        classifier: The model whose saliency maps place the stickers.
        images: uint8 [N, S, S, 3], of which the first four are drawn.
        path: The JPEG file to write.
    """
    some = images[:_WITH_STICKERS]
    columns = [("no stickers", some)]
    for placement, share, covered in sticker_versions(some, classifier.run(some)):
        columns.append((f"{placement}, {share:.0%}", covered))
    figure = Figure(figsize=(1.3 * len(columns), 1.3 * len(some) + 0.3), layout="constrained")
    for panels, (title, shown) in zip(figure.subplots(len(some), len(columns), squeeze=False).T, columns, strict=True):
        panels[0].set_title(title, fontsize=9)
        for axes, image in zip(panels, shown, strict=True):
            axes.imshow(image)
            axes.set_axis_off()
    save_figure(figure, path)


def draw_reliability(results: Mapping[str, Any], predictions: pd.DataFrame, path: Path) -> None:
    """Draws a reliability diagram: accuracy by predicted probability, in 15 bins (Guo et al. 2017)."""
    confidence = predictions["probability"].to_numpy()
    correct = (predictions["class_id"] == predictions["predicted_class"]).to_numpy(float)
    place = np.minimum((15 * confidence).astype(int), 14)
    counts = np.bincount(place, minlength=15)
    filled = counts > 0
    accuracy = np.bincount(place, correct, 15)[filled] / counts[filled]
    stated = np.bincount(place, confidence, 15)[filled] / counts[filled]
    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="perfect calibration")
    axes.plot(stated, accuracy, "o-", color=_BLUE, label="this model")
    for x, y, count in zip(stated, accuracy, counts[filled], strict=True):
        axes.annotate(f"{count:,}", (x, y), xytext=(5, -9), textcoords="offset points", fontsize=7)
    axes.set(
        title=f"Expected calibration error {results['expected_calibration_error']:.4f} on {results['split']} images "
        "(numbers: images per bin)",
        xlabel="predicted probability",
        ylabel="accuracy",
        xlim=(0, 1.05),
        ylim=(0, 1.05),
    )
    axes.legend()
    axes.grid(alpha=0.3)
    save_figure(figure, path)
