"""What the readers of all layouts return, before classes get their ids."""

from typing import NamedTuple

import pandas as pd


class Listing(NamedTuple):
    """The images of a raw folder with their labels.

    Attributes:
        layout: Name of the layout.
        images: One row per labelled image: `path` relative to the root of the layout, with `/`; `label`; `split`
            (train, val or test, as given); `group` (images that belong together; empty if not known); and `SIZES` of
            `csv_table.py` in px, 0 if not known.
        labels: All labels, including those of class folders without images.
        source: Where the labels are from, for messages, for example `the names of the class folders`.
        gtsrb: Whether the layout is one of GTSRB, so that the labels are its class ids.
        unlisted: Images among the others for which a label is missing.
        unlabelled: Images to predict only, which need no label.
        unused: Images in folders that do not belong to the data.
    """

    layout: str
    images: pd.DataFrame
    labels: list[str]
    source: str
    gtsrb: bool
    unlisted: list[str]
    unlabelled: list[str]
    unused: list[str]
