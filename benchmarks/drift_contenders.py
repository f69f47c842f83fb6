"""Compares drift detection with other libraries, whose results `benchmarks.contenders.drift_detectors` has printed.

    uv run python -m benchmarks.drift_contenders FOLDER --split val

FOLDER has the streams and NAME.csv of each detector. Writes benchmarks/results/drift_contenders.csv with a row per
detector, budget, shift and number of images, also of our detector, and reports/latest/figures/drift_contenders.png. All
detectors saw the same images, baselines and features. Ours is the one of `benchmarks.drift`, with its budget of 1 % per
1,000 looks at all horizons.
"""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from matplotlib.figure import Figure

from benchmarks.environment import Row, read_results, write_results
from benchmarks.shifts import CAMERAS
from src.mlops import ROOT
from src.mlops.cli import new_app, typer_main
from src.mlops.errors import DataError
from src.mlops.io.figures import save_figure
from src.mlops.monitoring.detector import HORIZONS

app = new_app()
OURS = "ours"
STRICT, LENIENT = "1 % per 1,000 windows", "1 % per window"  # as in contenders/drift_detectors.py
REQUIRED = 0.95  # probability with which a shift must be found
COLUMNS = ("windows", "found", "runs", "runs_with_alarm")
_KEY = ("split", "detector", "budget", "shift", "strength", "images")


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="Folder with the CSV files of the detectors.")],
    split: Annotated[str, typer.Option(help="Split of the images.")] = "test",
) -> None:
    """Merges the results."""
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise DataError(f"There are no CSV files in {folder}. Run benchmarks/contenders/drift_detectors.py first.")
    rows = [*_ours(split), *(row for file in files for row in _theirs(file, split))]
    write_results("drift_contenders", rows, _KEY)
    for loss in losses(split):
        typer.echo(f"Not won: {loss}")
    draw(split, ROOT / "reports" / "latest" / "figures" / "drift_contenders.png")


def _ours(split: str) -> Iterable[Row]:
    """Returns the rows of `benchmarks.drift` in the form of the others."""
    about = {"split": split, "detector": OURS, "budget": STRICT}
    for row in read_results("drift"):
        if row["split"] == split and int(row["images"]) in HORIZONS and "left-out" not in row["shift"]:
            own = {"shift": row["shift"].replace(":", ""), "strength": row["strength"], "images": row["images"]}
            yield about | own | dict.fromkeys(COLUMNS, "") | {"found": row["found"]}
    for row in read_results("drift_false_alarms"):
        if row["split"] == split and row["traffic"] == "by image" and row["finding"] == "any":
            yield about | {
                "shift": "clean run",
                "strength": 0,
                "images": HORIZONS[-1],
                "windows": row["looks"],
                "found": row["looks_with_alarm"],
                "runs": row["runs"],
                "runs_with_alarm": row["runs_with_alarm"],
            }


def _theirs(file: Path, split: str) -> Iterable[Row]:
    with file.open(newline="") as content:
        for row in csv.DictReader(content):
            yield {"split": split} | {name: row[name] for name in (*_KEY[1:], *COLUMNS)}


def summary(split: str) -> pd.DataFrame:
    """Returns the mean share of the shifts of a group that was found within n images.

    Returns:
        One row per detector, budget and group, one column per n.
    """
    rows = pd.DataFrame(read_results("drift_contenders"))
    rows = rows[(rows["split"] == split) & ~rows["shift"].str.startswith("clean")]
    rows["group"] = [_group(shift, strength) for shift, strength in zip(rows["shift"], rows["strength"], strict=True)]
    rows["images"], rows["found"] = rows["images"].astype(int), rows["found"].astype(float)
    table = rows.pivot_table(index=["detector", "budget", "group"], columns="images", values="found", sort=False)
    return table.reindex(columns=list(HORIZONS))


def losses(split: str) -> list[str]:
    """Returns the shifts that another detector with the same budget finds with fewer images than ours."""
    needed: dict[tuple[str, str], dict[str, int]] = {}
    for row in read_results("drift_contenders"):
        if row["split"] == split and row["budget"] == STRICT and "clean" not in row["shift"]:
            sizes = needed.setdefault((row["shift"], row["strength"]), {})
            if float(row["found"]) >= REQUIRED:
                sizes[row["detector"]] = min(sizes.get(row["detector"], int(row["images"])), int(row["images"]))
    return [
        f"{shift} {strength}: {detector} needs {size} images, ours {sizes.get(OURS, 'more than 1000')}"
        for (shift, strength), sizes in needed.items()
        for detector, size in sizes.items()
        if size < sizes.get(OURS, HORIZONS[-1] + 1)
    ]


def _group(shift: str, strength: str) -> str:
    if shift.startswith("mix"):
        return f"mix of classes, distance {strength}"
    if shift.startswith("unknown"):
        return f"unknown things, {float(strength):.0%}"
    return f"{'new camera, strength' if shift in CAMERAS else 'corruption, severity'} {strength}"


def _curves(table: pd.DataFrame, group: str) -> Iterable[tuple[str, str, pd.Series]]:
    own = table[table.index.get_level_values("group") == group]
    for place, (detector, budget, _) in enumerate(own.index.to_flat_index()):
        yield detector, budget, own.iloc[place]


def draw(split: str, path: Path) -> None:
    """Draws the share of the shifts that are found against the number of images, one panel per group."""
    table = summary(split)
    groups = list(table.index.unique("group"))
    figure = Figure(figsize=(12, 8), layout="constrained")
    panels = figure.subplots(-(-len(groups) // 4), 4, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, group in zip(panels, groups, strict=False):
        for detector, budget, found in _curves(table, group):
            strict = budget == STRICT
            label = detector if strict else f"{detector}, {budget}"
            style = {"color": "black", "linewidth": 2.5} if detector == OURS else {"linewidth": 1}
            axes.plot(list(HORIZONS), found, ".-" if strict else ".:", label=label, **style)
        axes.set_title(group, fontsize="small")
        axes.set(xscale="log", ylim=(-0.03, 1.03))
        axes.set_xticks(HORIZONS, [str(size) for size in HORIZONS])
        axes.minorticks_off()
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize="small")
    figure.supxlabel("images since the shift")
    figure.supylabel("share of the shifts that was found")
    save_figure(figure, path)


if __name__ == "__main__":
    typer_main(app)
