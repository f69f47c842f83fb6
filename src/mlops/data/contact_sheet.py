"""Draws a contact sheet of prepared data: `python -m src.mlops.data.contact_sheet`, or `inv data.sheet`."""

import logging
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from src.mlops.cli import hydra_main
from src.mlops.config import Config
from src.mlops.data.packing import Pack
from src.mlops.data.prepare import prepare
from src.mlops.errors import DataError
from src.mlops.io.figures import label, save_figure

logger = logging.getLogger("src.mlops.data.contact_sheet")
_COLUMNS = 9
_MOST = 200  # classes; more would be too small to see


def draw_data_sheet(pack: Pack, path: Path) -> None:
    """Draws one training image of each class, and the number of training images in the class."""
    arrays = pack.load("train")
    shown = pack.classes[:_MOST]
    rows = math.ceil(len(shown) / _COLUMNS)
    figure = Figure(figsize=(1.45 * _COLUMNS, 1.8 * rows), layout="constrained")
    some = "" if len(shown) == len(pack.classes) else f", the first {len(shown)} of {len(pack.classes):,} classes"
    figure.suptitle(f"{len(arrays.rows):,} training images: class, name and number of images{some}")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    for entry, axes in zip(shown, panels, strict=False):
        members = np.flatnonzero(arrays.labels == entry.class_id)
        number = f": {label(entry.number, 16)}" if entry.number else ""
        axes.set_title(f"{entry.class_id}{number}\n{label(entry.name, 22)}\n{len(members):,}", fontsize=6.5)
        if len(members):
            axes.imshow(arrays.images[arrays.rows[members[2 * len(members) // 3]]])
    for axes in figure.axes:
        axes.set_axis_off()
    save_figure(figure, path)


def main(config: Config) -> None:
    """Draws the contact sheet of the prepared data."""
    path = config.evaluation.reports_dir / "figures" / "data_sheet.png"
    pack = prepare(config.data)
    try:
        draw_data_sheet(pack, path)
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error}.") from error
    logger.info("Wrote %s", path)


if __name__ == "__main__":
    hydra_main(main)
