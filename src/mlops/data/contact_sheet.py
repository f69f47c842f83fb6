"""Draws a contact sheet of prepared data: `python -m src.mlops.data.contact_sheet`, or `inv data.sheet`."""

import logging
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from src.mlops.cli import hydra_main
from src.mlops.config import Config
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.packing import Pack
from src.mlops.data.prepare import prepare
from src.mlops.errors import DataError
from src.mlops.io.figures import save_figure

logger = logging.getLogger("src.mlops.data.contact_sheet")


def draw_data_sheet(pack: Pack, path: Path) -> None:
    """Draws one training image of each class, and the number of training images in the class."""
    arrays = pack.load("train")
    figure = Figure(figsize=(13, 9), layout="constrained")
    figure.suptitle(f"{len(arrays.rows):,} training images: class, German sign number, name and number of images")
    panels = figure.subplots(5, 9).flat
    for sign, axes in zip(SIGNS, panels, strict=False):
        members = np.flatnonzero(arrays.labels == sign.class_id)
        axes.set_title(f"{sign.class_id}: {sign.number}\n{sign.name}\n{len(members):,}", fontsize=6.5)
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
