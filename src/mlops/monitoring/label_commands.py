"""Commands for labels: `python -m src.mlops labels export OUT --log URL`, or `inv labels.export`."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from src.mlops.cli import new_app, typer_main
from src.mlops.monitoring.baseline import CLUSTER_SECONDS
from src.mlops.monitoring.label_export import export
from src.mlops.monitoring.labelled_accuracy import labelled_accuracy
from src.mlops.monitoring.window import ALL

logger = logging.getLogger(__name__)
app = new_app("Use the labels of recorded images.")
LogOption = Annotated[str, typer.Option(envvar="MLOPS_LOG_URL", help="Folder or gs:// URL of the prediction log.")]
WindowOption = Annotated[str, typer.Option(help="24h, 7d, or START/END in ISO 8601; all: the complete log.")]
SecondsOption = Annotated[
    float, typer.Option(min=0, help="Longest time between two frames of one sign; 0: all images are independent.")
]


@app.command("export")
def write(
    out: Annotated[Path, typer.Argument(help="New folder for the images and labels.csv, for data.raw_dir.")],
    log: LogOption,
    window: WindowOption = ALL,
    cluster_seconds: SecondsOption = CLUSTER_SECONDS,
    only_reviewed: Annotated[
        bool, typer.Option("--only-reviewed", help="Leave out feedback that no reviewer has confirmed.")
    ] = False,
) -> None:
    """Writes labelled images as training data."""
    done = export(log, out, window, cluster_seconds, only_reviewed)
    for name, count in sorted(done.classes.items(), key=lambda entry: -entry[1]):
        typer.echo(f"{count:6,}  {name}")
    for reason, count in done.left_out.items():
        logger.warning("Left out %d labels that %s", count, reason)
    typer.echo(f"Wrote {done.images:,} images of {done.groups:,} physical signs to {out}")


@app.command("accuracy")
def judge(
    log: LogOption,
    window: WindowOption = ALL,
    cluster_seconds: SecondsOption = CLUSTER_SECONDS,
    model_version: Annotated[
        str, typer.Option(help="Model to judge, such as 5f2c0a9b7d31; default: that of the newest record.")
    ] = "",
) -> None:
    """Estimates the accuracy of the labelled traffic. docs/explanation/labels.md explains the method."""
    found = labelled_accuracy(log, window, cluster_seconds, model_version)
    low, high = (f"{100 * value:.1f}" for value in (found.low, found.high))
    typer.echo(f"Accuracy {found.accuracy:.1%}, 95 % interval {low} to {high} %")
    typer.echo(
        f"Model {found.model_version}: {found.images:,} images up to {found.until:%Y-%m-%d %H:%M:%S} UTC, estimated "
        f"from {found.labels:,} labels of {found.signs:,} physical signs"
    )
    typer.echo(f"Without weights, {found.raw:.1%} of the labelled images are right: they are not representative.")
    if found.unclear:
        typer.echo(f"{found.unclear} images could not be judged, and count as missing.")
    if found.unused:
        typer.echo(f"{found.unused} labels are not used, because nothing is known about how they were chosen.")


if __name__ == "__main__":
    typer_main(app)
