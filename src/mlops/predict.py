"""Classifies images: `python -m src.mlops.predict FOLDER --out predictions.parquet`.

`python -m src.mlops explain image.png` writes a saliency map of one image.
"""

import logging
import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from src.mlops.cli import new_app, typer_main
from src.mlops.data.raw_files import EXPLAINED
from src.mlops.errors import DataError, ImageError
from src.mlops.inference.batch import predict, predict_to
from src.mlops.inference.classifier import Classifier
from src.mlops.inference.engines import Row, local_rows, ray_rows
from src.mlops.inference.explain import explain as explain_image
from src.mlops.modelfile.locate import LATEST, locate_model
from src.mlops.project import load_project

app, explaining = new_app(), new_app()
logger = logging.getLogger("src.mlops.predict")
SHOWN = 100  # maximum number of rows in the table on the terminal
ModelOption = Annotated[str, typer.Option(help="Model file, .onnx or .pth; latest is the newest trained model.")]


class Engine(StrEnum):
    """Where images are classified: in this process or on a Ray cluster."""

    local = "local"
    ray = "ray"


@app.command("predict")
def classify(
    inputs: Annotated[list[str], typer.Argument(help="Images, folders, globs, or URLs such as gs://bucket/folder.")],
    out: Annotated[Path | None, typer.Option(help="Write .parquet, .csv or .jsonl instead of showing a table.")] = None,
    model: ModelOption = LATEST,
    engine: Annotated[Engine, typer.Option(help="local: this process; ray: a Ray cluster.")] = Engine.local,
    workers: Annotated[int, typer.Option(min=1, help="Workers of the Ray cluster.")] = 2,
) -> None:
    """Classifies images. Unusable images become rows with the reason. An interrupted run is resumed."""
    path, out = locate_model(model), out and out.expanduser()
    classifier = Classifier.load(path)
    rows = ray_rows(path, workers) if engine is Engine.ray else local_rows(classifier)
    done, failed = predict_to(out, inputs, classifier, rows) if out else _show(predict(inputs, classifier, rows))
    if out:
        logger.info("Wrote %s: %d images, %d of them unusable", out, done, failed)
    if failed == done:
        raise DataError(f"None of the {done} images can be used." if done > 1 else "The image cannot be used.")


@explaining.command()
def explain(
    image: Annotated[Path, typer.Argument(help="The image to explain.")],
    out: Annotated[Path | None, typer.Option(help="PNG to write; default: a file next to the image.")] = None,
    model: ModelOption = LATEST,
) -> None:
    """Writes an image with its saliency map as an overlay."""
    try:
        explanation = explain_image(Classifier.load(locate_model(model)), image)
    except ImageError as error:
        raise ImageError(f"{image} cannot be used: {error}.") from error
    target = out.expanduser() if out else image.with_name(f"{image.stem}{EXPLAINED}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(explanation.to_png())
    except OSError as error:
        raise DataError(f"Cannot write {target}: {error}.") from error
    prediction = explanation.prediction
    unknown = f", probably not a known {load_project().image_title}" if prediction.is_unknown else ""
    logger.info("%s (%.1f%%)%s: %s", prediction.class_name, 100 * prediction.probability, unknown, target)


def _show(rows: Iterator[Row]) -> tuple[int, int]:
    item = load_project().image_title
    table = Table(Column("image", overflow="fold"), "class", escape(item), "probability", "note")
    done = failed = 0
    for row in rows:
        done += 1
        failed += row["error"] is not None
        if done > SHOWN:
            continue
        if row["error"] is not None:
            table.add_row(escape(row["path"]), "", "", "", f"[red]{escape(row['error'])}[/red]")
        else:
            note = f"[yellow]probably not a known {escape(item)}[/yellow]" if row["is_unknown"] else ""
            name, probability = escape(row["class_name"]), f"{row['probability']:.4f}"
            table.add_row(escape(row["path"]), str(row["predicted_class"]), name, probability, note)
    Console().print(table)
    if done > SHOWN:
        logger.info("%d more images are not shown; write all of them with --out", done - SHOWN)
    return done, failed


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of torch per batch; the other cores decode images
    typer_main(app)
