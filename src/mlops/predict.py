"""Classifies files and folders: `python -m src.mlops.predict sign.png folder/ --out predictions.csv`."""

import csv
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from src.mlops import ROOT
from src.mlops.errors import DataError, ImageError, MlopsError, report
from src.mlops.files import write_atomically
from src.mlops.inference import DEFAULT_MODEL, Classifier

logger = logging.getLogger(__name__)
COLUMNS = [
    "path",
    "predicted_class",
    "class_name",
    "probability",
    "is_unknown",
    "prediction_set",
    "model_version",
    "error",
]


def predict(inputs: list[Path], checkpoint: Path) -> list[dict[str, object]]:
    """Classifies files and all images below folders.

    Args:
        inputs: Files and folders.
        checkpoint: A `best_model.pth`.

    Returns:
        One row per image with the keys of `COLUMNS`. An image that cannot be used is a row with an `error`.

    Raises:
        DataError: An input does not exist, or there is no image at all.
        CheckpointError: The model cannot be loaded.
    """
    paths = list(_find(inputs))
    if not paths:
        raise DataError(f"expected images in {', '.join(map(str, inputs))}, found none.")
    classifier = Classifier.load(checkpoint)
    return [_row(path, classifier) for path in paths]


def _find(inputs: list[Path]) -> Iterator[Path]:
    for path in inputs:
        if path.is_dir():
            yield from (
                file for file in sorted(path.rglob("*")) if file.suffix.lower() in Image.registered_extensions()
            )
        elif path.exists():
            yield path
        else:
            raise DataError(f"expected a file or folder at {path.absolute()}, found none.")


def _row(path: Path, classifier: Classifier) -> dict[str, object]:
    try:
        prediction = classifier.classify([path])[0]
    except ImageError as error:
        return {**dict.fromkeys(COLUMNS, ""), "path": str(path), "error": str(error)}
    known = {name: value for name, value in prediction.to_dict().items() if name in COLUMNS}
    return {**known, "path": str(path), "prediction_set": " ".join(map(str, prediction.prediction_set)), "error": ""}


def _write(rows: list[dict[str, object]], out: Path) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_atomically(out, text.getvalue().encode())
    except OSError as error:
        raise DataError(f"expected to write {out}, found: {error}.") from error


def _show(rows: list[dict[str, object]]) -> None:
    table = Table(Column("image", overflow="fold"), "class", "sign", "probability", "note")
    for row in rows:
        if row["error"]:
            table.add_row(escape(str(row["path"])), "", "", "", f"[red]{escape(str(row['error']))}[/red]")
        else:
            note = "[yellow]looks like no known sign[/yellow]" if row["is_unknown"] else ""
            cells = (row["predicted_class"], row["class_name"], f"{row['probability']:.4f}", note)
            table.add_row(escape(str(row["path"])), *map(str, cells))
    Console().print(table)


def main(
    inputs: Annotated[list[Path], typer.Argument(help="Images, or folders that are searched for images.")],
    out: Annotated[Path | None, typer.Option(help="Write a CSV file instead of showing a table.")] = None,
    checkpoint: Annotated[Path, typer.Option(help="Model to use.")] = ROOT / DEFAULT_MODEL,
) -> None:
    """Classifies images; one that cannot be used becomes a row with the reason."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        rows = predict(inputs, checkpoint)
        failed = sum(bool(row["error"]) for row in rows)
        if out:
            _write(rows, out)
            logger.info("%d images, %d of them unusable: %s", len(rows), failed, out)
        else:
            _show(rows)
        if failed == len(rows):
            raise DataError(f"expected usable images, found none among {len(rows)}.")
    except MlopsError as error:
        report(error)


if __name__ == "__main__":
    typer.run(main)
