"""Finds the class list of raw data, and the class id of each label in it."""

import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from src.mlops.data.classes import CLASSES_FILE, ClassList, natural_order, read_classes
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.listing import Listing
from src.mlops.errors import DataError, listed

FRAME = re.compile(r"(?:\d{5}_)?(\d{5})_(\d{5})")
"""File names of GTSRB's frames, without the suffix: track and frame, in Kaggle's layout after the class."""


class Labels(NamedTuple):
    """The classes of raw data.

    Attributes:
        classes: The class list.
        ids: The class id of each label.
        source: Where the class list is from, for messages.
    """

    classes: ClassList
    ids: dict[str, int]
    source: str


def find_classes(listing: Listing, root: Path, class_file: Path | None, classes: ClassList | None = None) -> Labels:
    """Returns the given classes, or those in `classes.csv`, or those of GTSRB's images, or one for each label.

    Args:
        listing: The labelled images.
        root: Folder of the images, for messages.
        class_file: Path of `classes.csv`; None if there is none.
        classes: The class list; None: find it.

    Raises:
        DataError: A class list is not valid, does not contain all labels, or has classes without training images.
    """
    spelled: dict[str, str] = {}
    for label in listing.labels:
        other = spelled.setdefault(_nfc(label), label)
        if other != label:
            raise DataError(
                f"{_capital(listing.source)} in {root} contain {label!r} twice, in two Unicode forms. Rename one."
            )
    if classes:
        labels = _of_list(listing, root, classes, None, "The class list of the data")
    elif class_file:
        labels = _of_list(listing, root, *read_classes(class_file), str(class_file))
    elif listing.gtsrb or _is_gtsrb(listing):
        labels = _from_catalogue(listing, root)
    else:
        labels = _from_labels(listing, root)
    _require_images(listing, labels, root, everything=class_file is not None and classes is None)
    return labels


def _of_list(listing: Listing, root: Path, classes: ClassList, known: dict[str, int] | None, source: str) -> Labels:
    """Finds the labels in a class list. `known` has the class id of each label; None: labels are names or ids."""
    given = {label: _nfc(label) for label in listing.labels}
    if known is None:
        known = {entry.name: entry.class_id for entry in classes}
        if not known.keys() >= set(given.values()) and all(_is_number(label) for label in given.values()):
            _require_distinct_numbers(listing.labels, source)
            known = {label: int(label) for label in given.values() if int(label) < len(classes)}
    unknown = sorted((label for label, plain in given.items() if plain not in known), key=natural_order)
    if unknown:
        raise DataError(
            f"{source} does not contain all labels of the images in {root}. Missing: {_quoted(unknown)}. Add a row for "
            "each, or a column 'label' if the images call their classes differently."
        )
    return Labels(classes, {label: known[plain] for label, plain in given.items()}, source)


def _require_distinct_numbers(labels: list[str], source: str) -> None:
    spelled: dict[int, str] = {}
    for label in labels:
        if (other := spelled.setdefault(int(label), label)) != label:
            raise DataError(
                f"The labels {other!r} and {label!r} are the same number, so both would be class {int(label)} of "
                f"{source}. Rename one, or add a column 'label'."
            )


def _from_catalogue(listing: Listing, root: Path) -> Labels:
    wrong = [label for label in listing.labels if not (_is_number(label) and int(label) < len(SIGNS))]
    if wrong:
        row = listing.images[listing.images["label"].isin(wrong)].iloc[0]
        raise DataError(
            f"{row['path']} in {root} has the class id {row['label']!r}, but the class ids of GTSRB are 0 to "
            f"{len(SIGNS) - 1}. If the images have other classes, add {CLASSES_FILE} with the columns id and name."
        )
    return Labels(SIGNS, {label: int(label) for label in listing.labels}, "GTSRB")


def _from_labels(listing: Listing, root: Path) -> Labels:
    try:
        classes = ClassList.of_names(map(_nfc, listing.labels))
    except ValueError as error:
        raise DataError(f"{_capital(listing.source)} in {root} cannot be used as classes: {error}.") from error
    ids = {entry.name: entry.class_id for entry in classes}
    return Labels(classes, {label: ids[_nfc(label)] for label in listing.labels}, listing.source)


def _is_gtsrb(listing: Listing) -> bool:
    """Returns whether class folders are those of GTSRB: with its class ids, and with all file names like its frames."""
    return all(_is_number(label) and int(label) < len(SIGNS) for label in listing.labels) and all(
        FRAME.fullmatch(path.rpartition("/")[2].rpartition(".")[0]) for path in listing.images["path"]
    )


def _require_images(listing: Listing, labels: Labels, root: Path, everything: bool) -> None:
    images = listing.images
    trained = {labels.ids[label] for label in images.loc[images["split"] == "train", "label"].unique()}
    present = {labels.ids[label] for label in images["label"].unique()}
    needed = set(range(len(labels.classes))) if everything else set(labels.ids.values())
    if empty := sorted(needed - present):
        raise DataError(
            f"{root} contains no images of {_named(labels.classes, empty)}. Add images, or remove the "
            f"{'rows from ' + labels.source if everything else 'empty folders'}."
        )
    if untrained := sorted(present - trained):
        raise DataError(
            f"{root} contains validation or test images, but no training images, of "
            f"{_named(labels.classes, untrained)}. Add training images, or remove the others."
        )


def _named(classes: ClassList, ids: list[int]) -> str:
    return f"{'class' if len(ids) == 1 else 'the classes'} {_quoted([classes[class_id].name for class_id in ids])}"


def _quoted(names: list[str]) -> str:
    return listed([repr(name) for name in names], 10)


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdecimal() and len(label) < 10


def _nfc(label: str) -> str:
    return unicodedata.normalize("NFC", label)
