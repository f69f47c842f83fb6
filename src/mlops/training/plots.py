"""Figures of trainings (learning curves) and of searches (importances of the hyperparameters)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from src.mlops.io.figures import save_figure

_BLUE, _GREY = "#2a6fb0", "#9aa5b1"


def draw_learning_curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draws the loss, and the error rate on a logarithmic scale, over the epochs."""
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for prefix, label, colour in (("train", "training (augmented)", _GREY), ("val", "validation", _BLUE)):
        left.plot(epochs, [row[f"{prefix}_loss"] for row in history], marker=".", label=label, color=colour)
        # A logarithmic axis cannot show zero, so the error rate is at least 0.01 %.
        wrong = [max(100 * (1 - row[f"{prefix}_Accuracy"]), 0.01) for row in history]
        right.plot(epochs, wrong, marker=".", label=label, color=colour)
    left.set(title="Loss", xlabel="epoch")
    right.set(title="Wrong predictions in %", xlabel="epoch", yscale="log")
    right.yaxis.set_major_formatter("{x:g}")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, path)


def draw_importances(importances: Mapping[str, float], trials: int, path: Path) -> None:
    """Draws the importance of each hyperparameter: its share of the difference in accuracy between the trials."""
    figure = Figure(figsize=(8, 0.5 * len(importances) + 1.5), layout="constrained")
    axes = figure.subplots()
    names = sorted(importances, key=lambda name: importances[name])
    bars = axes.barh(names, [importances[name] for name in names], color=_BLUE)
    axes.bar_label(bars, fmt=" %.2f")
    axes.set(title=f"Importance for the validation accuracy ({trials} trials)", xlim=(0, 1.1))
    save_figure(figure, path)
