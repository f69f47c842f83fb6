"""Compares a window of the prediction log with a baseline: `python -m src.mlops.monitoring.drift`, `inv drift.report`.

With `--accept`, or `inv drift.baseline`, the window becomes the new baseline instead.
"""

import logging
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from getpass import getuser
from pathlib import Path
from typing import Annotated

import typer

from src.mlops import ROOT
from src.mlops.cli import new_app, typer_main
from src.mlops.errors import DataError, StorageError
from src.mlops.io.files import write_atomically
from src.mlops.io.storage import open_storage
from src.mlops.modelfile.locate import LATEST, locate_model
from src.mlops.monitoring.baseline import SUFFIX, Baseline, Origin, now
from src.mlops.monitoring.detector import EVERY
from src.mlops.monitoring.findings import TITLES
from src.mlops.monitoring.frame import read_frame
from src.mlops.monitoring.html import to_html
from src.mlops.monitoring.records import model_of, observe
from src.mlops.monitoring.report import Report, compare, moment

app = new_app()
logger = logging.getLogger("src.mlops.monitoring.drift")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@app.command("drift")
def drift(
    log: Annotated[str, typer.Option(help="Folder or gs:// URL of the prediction log.")] = "data/predictions",
    window: Annotated[
        str,
        typer.Option(help="24h, 7d, or START/END in ISO 8601; all: the complete log. 24h ends at the newest record."),
    ] = "all",
    baseline: Annotated[
        Path | None, typer.Option(help="Baseline to compare with; default: the accepted one next to the model file.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Model whose baseline is used; latest is the newest trained model.")
    ] = LATEST,
    out: Annotated[Path, typer.Option(help="Folder for drift.json, drift.prom and drift.html.")] = Path(
        "reports/drift"
    ),
    cluster_seconds: Annotated[
        float, typer.Option(min=0, help="Longest time between two frames of one sign; 0: all images are independent.")
    ] = 2.0,
    accept: Annotated[bool, typer.Option("--accept", help="Accept the window as the new baseline instead.")] = False,
    author: Annotated[str, typer.Option(help="Who accepts it; default: the user.")] = "",
    fail: Annotated[bool, typer.Option("--fail", help="Exit with code 3 if there is drift.")] = False,
) -> None:
    """Reports drift in a window of the prediction log, or accepts the window as the baseline."""
    path = baseline.expanduser() if baseline else accepted(locate_model(model))
    current = Baseline.load(path)
    start, end = parse_window(window)
    frame = read_frame(log, start, end)
    if window[-1:] in _UNITS and "/" not in window and len(frame):
        frame = frame[frame["time"] > frame["time"].max() - _length(window)]
    if accept:
        own = model_of(frame)
        current.require_model(*own)
        observations, _ = observe(frame, current.knowledge.centres, own, cluster_seconds)
        source = f"{log}, {moment(observations.time[0])} to {moment(observations.time[-1])}"
        created = now()
        origin = Origin(created, created, author or getuser(), source, *own, current.origin.classes, len(observations))
        chosen = Baseline.of(observations, origin, current.knowledge)
        target = path.with_name(f"{path.name.split('.')[0]}.{created.replace(':', '')}{SUFFIX}")
        chosen.save(target)
        logger.info(
            "Accepted %d images of %d physical signs as the baseline %s", len(observations), len(chosen), target
        )
        return
    report = compare(frame, current, cluster_seconds)
    folder = ROOT / out.expanduser()
    try:
        write_atomically(folder / "drift.json", report.to_json().encode())
        write_atomically(folder / "drift.prom", report.to_prometheus().encode())
        write_atomically(folder / "drift.html", to_html(report, partial(_stored_image, log)).encode())
    except OSError as error:
        raise DataError(f"Cannot write the report to {folder}: {error}.") from error
    _summarise(report, folder)
    if fail and report.findings:
        raise typer.Exit(3)


def accepted(model: Path) -> Path:
    """Returns the newest baseline next to a model file; the reference of the model if none was accepted.

    Raises:
        DataError: There is none.
    """
    name = model.name.split(".")[0]
    versions = sorted(model.parent.glob(f"{name}.*{SUFFIX}"))  # their names start with the time
    if versions:
        return versions[-1]
    reference = model.with_name(f"{name}{SUFFIX}")
    if not reference.is_file():
        raise DataError(
            f"There is no baseline next to the model {model}. The first one of a model needs labelled images: build "
            f"{reference.name} with `build_reference` (docs/drift.md), or give another with --baseline."
        )
    return reference


def parse_window(text: str) -> tuple[datetime | None, datetime | None]:
    """Parses `all`, a length such as `24h`, or `START/END`, where one of the two may be empty.

    Returns:
        Start and end; both None for a length, because it counts from the newest record.

    Raises:
        DataError: The text is neither.
    """
    if text == "all":
        return None, None
    if "/" not in text:
        _length(text)
        return None, None
    try:
        start, end = (
            datetime.fromisoformat(part).astimezone(UTC) if part else None for part in text.split("/", maxsplit=1)
        )
    except ValueError as error:
        raise _unreadable(text) from error
    return start, end


def _stored_image(log: str, name: str) -> bytes | None:
    try:
        return open_storage(log).read(name)
    except StorageError:  # images expire before records
        return None


def _length(text: str) -> timedelta:
    if not (match := re.fullmatch(r"(\d{1,5})([mhdw])", text)) or int(match[1]) == 0:
        raise _unreadable(text)
    return int(match[1]) * _UNITS[match[2]]


def _unreadable(text: str) -> DataError:
    return DataError(
        f"The window {text!r} is neither `all`, nor a length such as 30m, 24h, 7d or 4w, nor START/END such as "
        "2026-11-30T00:00Z/2026-12-01T00:00Z."
    )


def _summarise(report: Report, folder: Path) -> None:
    signs = len(report.looks.window.last)
    logger.info("%d images of %d physical signs; baseline %s", len(report.stream), signs, report.baseline.origin.name)
    if len(report.stream) < EVERY:
        logger.warning("Fewer than %d images can only show a large drift", EVERY)
    for finding in report.findings:
        details = ", ".join(change.feature for change in finding.features[:3]) or ", ".join(
            f"{change.name} {change.before:.1%} → {change.after:.1%}" for change in finding.classes[:3]
        )
        logger.warning(
            "%s (%s) since %s: %s. %s",
            TITLES[finding.kind],
            finding.severity,
            moment(finding.since),
            details,
            finding.reservation,
        )
    if not report.findings:
        logger.info("No drift")
    if report.accuracy:
        logger.info("Estimated accuracy %.1f%% (%.1f to %.1f%%)", *(100 * value for value in report.accuracy))
    logger.info("Wrote %s/drift.html, drift.json and drift.prom", folder)


if __name__ == "__main__":
    typer_main(app)
