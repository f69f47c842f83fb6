"""Compares a window of the prediction log with a baseline: `python -m src.mlops.monitoring.drift`, `inv drift`.

The command line, the service (`serving/drift_app.py`) and the job in the cloud share these functions.
"""

import math

import pandas as pd

from src.mlops.errors import DataError, StorageError
from src.mlops.io.storage import open_storage
from src.mlops.modelfile.locate import LATEST, locate_model
from src.mlops.monitoring.accepted import find_baseline
from src.mlops.monitoring.baseline import Baseline, Origin, now
from src.mlops.monitoring.html import to_html
from src.mlops.monitoring.records import Model, observe
from src.mlops.monitoring.report import Report, compare, moment
from src.mlops.monitoring.window import ALL, read_window


def drift(
    log: str,
    window: str = ALL,
    baseline: str | None = None,
    model: str = LATEST,
    cluster_seconds: float | None = None,
) -> Report:
    """Compares a window of the prediction log with a baseline.

    Args:
        log: Folder or `gs://` URL of the prediction log.
        window: See `window.read_window`.
        baseline: See `accepted.find_baseline`.
        model: Name of the model file, see `locate_model`.
        cluster_seconds: Longest time between two frames of one physical sign; 0: all images are independent; None: as
            for the baseline.

    Raises:
        CheckpointError, RegistryError: The model file is missing or cannot be used.
        DataError: There is no baseline, or no usable record of its model in the window.
        StorageError: The log cannot be read.
    """
    found = find_baseline(log, locate_model(model), baseline)
    return compare(_records(log, window), found, _or_as_before(cluster_seconds, found))


def accept(
    log: str,
    author: str,
    window: str = ALL,
    baseline: str | None = None,
    model: str = LATEST,
    cluster_seconds: float | None = None,
) -> Baseline:
    """Makes a baseline of a window of the prediction log. `accepted.store_baseline` writes it.

    It keeps what another baseline knows about the model from labelled images.

    Args:
        log: See `drift`.
        author: Who accepts it.
        window: See `drift`.
        baseline: The baseline with the knowledge, see `accepted.find_baseline`.
        model: See `drift`.
        cluster_seconds: See `drift`.

    Raises:
        CheckpointError, RegistryError, StorageError: See `drift`.
        DataError: See `drift`. Or the window shows too few physical signs.
    """
    current = find_baseline(log, locate_model(model), baseline)
    own = Model(current.origin.model_version, current.origin.class_list)
    seconds = _or_as_before(cluster_seconds, current)
    observations, _ = observe(_records(log, window), current.knowledge.centres, own, seconds)
    source = f"{log}, {moment(observations.time[0])} to {moment(observations.time[-1])}"
    created = now()
    origin = Origin(created, created, author, source, *own, current.origin.classes, len(observations), seconds)
    return Baseline.of(observations, origin, current.knowledge)


def _or_as_before(seconds: float | None, baseline: Baseline) -> float:
    if seconds is None:
        return baseline.origin.cluster_seconds
    if not 0 <= seconds < math.inf:
        raise DataError(f"The time between two frames of one sign must be 0 or more seconds, but is {seconds}.")
    return seconds


def _records(log: str, window: str) -> pd.DataFrame:
    frame = read_window(log, window)
    if frame.empty:
        raise DataError(
            f"The prediction log {log} contains no records in the window {window}. Check its URL, and that the service "
            "records predictions there (MLOPS_LOG_URL), or choose another window."
        )
    return frame


def page(report: Report, log: str) -> str:
    """Returns the report as an HTML document with the example images that the log still has."""
    storage = open_storage(log)

    def stored_image(name: str) -> bytes | None:
        try:
            return storage.read(name)
        except StorageError:  # images expire before records
            return None

    return to_html(report, stored_image)


def write_report(report: Report, log: str, out: str) -> None:
    """Writes `drift.json`, `drift.prom` and `drift.html`.

    Args:
        report: The report.
        log: The prediction log, which has the example images.
        out: Folder or `gs://` URL. Earlier reports are overwritten.

    Raises:
        StorageError: A file cannot be written.
    """
    storage = open_storage(out)
    for name, text in {
        "drift.json": report.to_json(),
        "drift.prom": report.to_prometheus(),
        "drift.html": page(report, log),
    }.items():
        storage.write(name, text.encode())


if __name__ == "__main__":
    from src.mlops.cli import typer_main
    from src.mlops.monitoring.commands import app

    typer_main(app)
