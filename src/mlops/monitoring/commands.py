"""The command `drift`: reports drift, accepts a baseline, or lists the accepted ones."""

import logging
from getpass import getuser
from typing import Annotated

import typer

from src.mlops.cli import new_app
from src.mlops.errors import DataError
from src.mlops.inference.classifier import Classifier
from src.mlops.io.storage import open_storage
from src.mlops.modelfile.locate import LATEST, locate_model
from src.mlops.monitoring.accepted import REFERENCE, accepted_files, read_baseline, store_baseline
from src.mlops.monitoring.baseline import CLUSTER_SECONDS, Baseline
from src.mlops.monitoring.compact import compact
from src.mlops.monitoring.detector import EVERY
from src.mlops.monitoring.drift import accept, drift, write_report
from src.mlops.monitoring.findings import TITLES, Finding
from src.mlops.monitoring.report import Report, moment
from src.mlops.monitoring.window import ALL

app: typer.Typer = new_app()  # drift.py imports it, so its type must not depend on what is imported here
logger = logging.getLogger(__name__)


@app.command("drift")
def main(
    log: Annotated[
        str, typer.Option(envvar="MLOPS_LOG_URL", help="Folder or gs:// URL of the prediction log.")
    ] = "data/predictions",
    window: Annotated[
        str,
        typer.Option(help="24h, 7d, or START/END in ISO 8601; all: the complete log. 24h ends at the newest record."),
    ] = ALL,
    baseline: Annotated[
        str | None,
        typer.Option(
            help=f"Name of an accepted baseline, {REFERENCE} for the one in the model file, or the path of an .npz "
            "file; default: the newest accepted one, or the reference if there is none."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Model whose records are judged; latest is the newest trained model.")
    ] = LATEST,
    out: Annotated[
        str, typer.Option(help="Folder or gs:// URL for drift.json, drift.prom and drift.html.")
    ] = "reports/drift",
    cluster_seconds: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Longest time between two frames of one sign; 0: all images are independent; default: as for the "
            f"baseline, {CLUSTER_SECONDS:g} for the reference.",
        ),
    ] = None,
    accept_: Annotated[bool, typer.Option("--accept", help="Accept the window as the new baseline instead.")] = False,
    author: Annotated[str, typer.Option(help="Who accepts it; default: the user.")] = "",
    list_: Annotated[bool, typer.Option("--list", help="List the baselines of the model instead.")] = False,
    compact_: Annotated[
        bool, typer.Option("--compact", help="Then turn the log of past days into one Parquet file per day.")
    ] = False,
    fail: Annotated[bool, typer.Option("--fail", help="Exit with code 3 if there is drift.")] = False,
) -> None:
    """Reports drift in a window of the prediction log, or accepts the window as the baseline."""
    if list_:
        _list(log, model)
    elif accept_:
        chosen = accept(log, author or _user(), window, baseline, model, cluster_seconds)
        url = store_baseline(log, chosen)
        logger.info("Accepted %d images of %d physical signs as %s", chosen.origin.images, len(chosen), url)
    else:
        open_storage(out)  # reports an unusable URL before the work
        report = drift(log, window, baseline, model, cluster_seconds)
        write_report(report, log, out)
        _summarise(report, out)
        if compact_:
            done = compact(log)
            logger.info("Replaced %d files of %d days by Parquet files", done.files, done.days)
        if fail and report.findings:
            raise typer.Exit(3)


def _list(log: str, model: str) -> None:
    """Prints the baselines of a model, the oldest first. Without `--baseline`, the last one is used."""
    path, storage = locate_model(model), open_storage(log)
    try:
        typer.echo(_line(Baseline.of_model(path)))
    except DataError as error:
        typer.echo(str(error))
    for file in accepted_files(storage, Classifier.load(path).version):
        try:
            typer.echo(_line(read_baseline(storage, file)))
        except DataError as error:
            typer.echo(str(error))


def _line(baseline: Baseline) -> str:
    origin = baseline.origin
    return f"{origin.name}  {origin.author}  {origin.images:,} images of {len(baseline):,} signs  {origin.source}"


def _user() -> str:
    try:
        return getuser()
    except (OSError, KeyError) as error:  # a container with an arbitrary user ID
        raise DataError("The name of the user is not known. Say with --author who accepts the baseline.") from error


def _summarise(report: Report, out: str) -> None:
    origin, signs = report.baseline.origin, len(report.looks.window.last)
    logger.info("%d images of %d physical signs", len(report.stream), signs)
    if 2 * signs < len(report.stream):
        logger.info(
            "Similar images in quick succession count as one sign. If they come from independent clients, use "
            "--cluster-seconds 0, also for the baseline"
        )
    logger.info("Compared with the baseline %s, %s", origin.name, origin.described)
    if len(report.stream) < EVERY:
        logger.warning("Fewer than %d images can only show a large drift", EVERY)
    for finding in report.findings:
        text = f"{TITLES[finding.kind]} ({finding.severity}) since {moment(finding.since)}: {_details(finding)}."
        logger.warning("%s", f"{text} {finding.reservation}".rstrip())
    if not report.findings:
        logger.info("No drift")
    if report.accuracy:
        logger.info("Estimated accuracy %.1f%% (%.1f to %.1f%%)", *(100 * value for value in report.accuracy))
    logger.info("Wrote %s/drift.html, drift.json and drift.prom", out.rstrip("/"))


def _details(finding: Finding) -> str:
    if finding.features:
        return ", ".join(change.feature.replace("_", " ") for change in finding.features[:3])
    if finding.kind == "unknown":
        most = sorted(finding.classes, key=lambda change: -change.after)
        return "images that look like none of the classes" + (f", most like {most[0].name}" if most else "")
    return ", ".join(f"{change.name} {change.before:.1%} → {change.after:.1%}" for change in finding.classes[:3])
