"""Classifies files, folders, globs and buckets: `python -m src.mlops.predict INPUT… --out predictions.parquet`.

Pictures stream through: inputs → paths (`pictures.py`) → rows (`rows.py`) → a file, by way of a journal (`journal.py`).
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from src.mlops.errors import DataError, MlopsError, report
from src.mlops.inference import LATEST, Classifier, locate_model
from src.mlops.journal import open_journal
from src.mlops.pictures import find_images
from src.mlops.progress import ProgressBar
from src.mlops.rows import Row, Rows, local_rows, ray_rows

logger = logging.getLogger("src.mlops.predict")
SHOWN = 100  # rows of the table on the terminal


class Engine(StrEnum):
    """Where the work is done: in this process, or on a Ray cluster."""

    local = "local"
    ray = "ray"


def predict(inputs: Sequence[str], classifier: Classifier, rows: Rows | None = None) -> Iterator[Row]:
    """Classifies pictures one after the other.

    Args:
        inputs: Files, folders, globs, or URLs that fsspec reads, such as `gs://bucket/folder`.
        classifier: The model.
        rows: Turns paths into rows; None does so in threads of this process.

    Yields:
        A row with the fields of `SCHEMA` for each picture, in order. One that cannot be used is a row with an `error`.

    Raises:
        DataError: An input does not exist or cannot be listed, or there is no picture at all.
    """
    yield from (rows or local_rows(classifier))(find_images(inputs))


def predict_to(out: Path, inputs: Sequence[str], classifier: Classifier, rows: Rows | None = None) -> tuple[int, int]:
    """Classifies pictures into a file, going on with a run that was broken off.

    Args:
        out: A `.parquet`, `.csv` or `.jsonl` file; one that exists is replaced when all is done.
        inputs: As for `predict`.
        classifier: The model.
        rows: As for `predict`.

    Returns:
        The number of pictures, and how many of them could not be used.

    Raises:
        DataError: As for `predict`; or the output cannot be written, or a broken-off run does not fit to this one.
    """
    total = sum(1 for _ in find_images(inputs))
    with open_journal(out, {"inputs": list(inputs), "model_version": classifier.version}) as journal:
        paths = find_images(inputs)
        journal.skip(paths)
        if journal.done:
            logger.info("going on after %d of %d pictures, which an earlier run did", journal.done, total)
        with ProgressBar("classifying", total) as bar:
            for done in journal.extend((rows or local_rows(classifier))(paths)):
                bar.show(done)
        journal.finish(out)
    return journal.done, journal.failed


def _show(rows: Iterator[Row]) -> tuple[int, int]:
    table = Table(Column("image", overflow="fold"), "class", "sign", "probability", "note")
    done = failed = 0
    for row in rows:
        done += 1
        failed += row["error"] is not None
        if done > SHOWN:
            continue
        if row["error"] is not None:
            table.add_row(escape(row["path"]), "", "", "", f"[red]{escape(row['error'])}[/red]")
        else:
            note = "[yellow]looks like no known sign[/yellow]" if row["is_unknown"] else ""
            cells = (row["predicted_class"], row["class_name"], f"{row['probability']:.4f}", note)
            table.add_row(escape(row["path"]), *map(str, cells))
    Console().print(table)
    if done > SHOWN:
        logger.info("and %d more; --out writes them all", done - SHOWN)
    return done, failed


def main(
    inputs: Annotated[list[str], typer.Argument(help="Pictures, folders, globs, or URLs such as gs://bucket/folder.")],
    out: Annotated[Path | None, typer.Option(help="Write .parquet, .csv or .jsonl instead of showing a table.")] = None,
    model: Annotated[str, typer.Option(help="Model file, .onnx or .pth; latest is what training made last.")] = LATEST,
    engine: Annotated[Engine, typer.Option(help="local: this process; ray: a Ray cluster.")] = Engine.local,
    workers: Annotated[int, typer.Option(min=1, help="Workers of the Ray cluster.")] = 2,
) -> None:
    """Classifies pictures; one that cannot be used becomes a row with the reason. A broken-off run goes on."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        path = locate_model(model)
        classifier = Classifier.load(path)
        rows = ray_rows(path, workers) if engine is Engine.ray else local_rows(classifier)
        done, failed = predict_to(out, inputs, classifier, rows) if out else _show(predict(inputs, classifier, rows))
        if out:
            logger.info("%d pictures, %d of them unusable: %s", done, failed, out)
        if failed == done:
            raise DataError(f"expected usable pictures, found none among {done}.")
    except MlopsError as error:
        report(error)


if __name__ == "__main__":
    typer.run(main)
