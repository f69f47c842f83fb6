"""Starts a training with labelled images of the service: `python -m src.mlops.cloud.retrain`, or `inv gcp.retrain`.

    jobs/gtsrb-retrain-DIGEST/collected.zip   the labelled images
    jobs/gtsrb-retrain-DIGEST/labels.csv      the list of the labels in the archive
    jobs/gtsrb-retrain-DIGEST/request.json    written when the job is started, see `jobs.py`

The digest is that of everything that decides the model, so these files never change, and a call that goes on after one
that was killed uses the same. `collect.py` does the rest, up to staging.
"""

import csv
import hashlib
import json
import logging
import tempfile
from pathlib import Path
from typing import NamedTuple

import typer

from src.mlops.cli import hydra_main
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.images import pinned_image
from src.mlops.cloud.jobs import find_attempts, read_outcome, read_request
from src.mlops.cloud.names import JOBS, NEWEST, Names
from src.mlops.cloud.submit import train
from src.mlops.config import CloudConfig, Config
from src.mlops.data.archives import pack_folder
from src.mlops.errors import CloudError, MissingFileError, NothingLabelledError
from src.mlops.io.files import sha256, to_json
from src.mlops.io.storage import open_storage
from src.mlops.monitoring.label_export import TABLE, export

logger = logging.getLogger("src.mlops.cloud.retrain")
ARCHIVE = "collected.zip"
REPORT = "drift.json"
HARMLESS = "mix"  # kind of drift in which the model makes no new errors, see docs/explanation/drift.md
_DIGITS = 16  # of the digest in a name


class _Earlier(NamedTuple):
    """A retraining that was started.

    Attributes:
        name: Name of its job.
        labels: Path and label of its images.
        ended: Whether `collect.py` has recorded what became of it.
        version: The registered version; empty if there is none.
    """

    name: str
    labels: set[tuple[str, str]]
    ended: bool
    version: str


def retrain(cloud: CloudConfig) -> str:
    """Starts a training job with the labelled images of the prediction log, if there are enough new ones.

    A job that failed has used its labels, too, so that nothing is paid again and again without a person.

    Args:
        cloud: Section `cloud` of the configuration. `cloud.retrain` decides when, and with which labels.

    Returns:
        What was done, or why nothing was done, as a sentence.

    Raises:
        CloudError: Predictions are not recorded, or a step failed.
        DataError: The window is invalid.
        StorageError: The bucket cannot be used.
    """
    gcloud, names, settings = Gcloud(cloud), Names(cloud), cloud.retrain
    if not cloud.prediction_log:
        raise CloudError(
            "Nothing can be retrained, because predictions are not recorded: cloud.prediction_log is null. Set it to "
            f"{names.bucket}/prediction_log, run `inv gcp.bootstrap` and `inv gcp.deploy`, and label images at /review."
        )
    gcloud.login()
    if gcloud.dry_run:
        _start(cloud, "digest", Path())
        return "Nothing was started, because this is a dry run."
    if settings.only_after_drift and (reason := _why_no_drift(names)):
        return f"No retraining: {reason}."
    with tempfile.TemporaryDirectory(prefix="retrain-") as work:
        folder, archive = Path(work, "collected"), Path(work, ARCHIVE)
        try:
            export(cloud.prediction_log, folder, settings.window, only_reviewed=settings.only_reviewed)
        except NothingLabelledError as error:
            return f"No retraining: {error} Label images at /review."
        pack_folder(folder, archive)
        cloud = cloud.model_copy(update={"tag": cloud.tag or NEWEST})  # no image may have been built of this commit
        image = pinned_image(gcloud, Names(cloud), "train")
        decisive = to_json([sha256(archive), image, settings.options])
        digest = hashlib.sha256(decisive.encode()).hexdigest()[:_DIGITS]
        name, table = _job(cloud, digest), (folder / TABLE).read_bytes()
        earlier = _earlier(cloud)
        for job in earlier:
            # A call that was killed before it started its own job is continued.
            if not job.ended and (job.name != name or find_attempts(gcloud, name)):
                return f"No retraining: {job.name} was started, and `inv gcp.collect` has not handled it yet."
            if job.name == name and job.version:
                return f"No retraining: {job.version} was trained with the same labels and the same code."
        new = _labels(table) - {label for job in earlier if job.ended for label in job.labels}
        if len(new) < settings.min_new:
            return (
                f"No retraining: {len(new)} labelled images are new, and cloud.retrain.min_new is {settings.min_new}. "
                "Label more images at /review."
            )
        storage = open_storage(f"{names.bucket}/{JOBS}/{name}")
        storage.write(TABLE, table)
        storage.upload(archive, ARCHIVE)
        _start(cloud, digest, Path(work))
    return f"Started {name} with {len(_labels(table))} labelled images, of which {len(new)} are new."


def _start(cloud: CloudConfig, digest: str, target: Path) -> None:
    own = {
        "action": "start",
        "job": _job(cloud, digest).removeprefix(f"{cloud.name}-"),
        "data": None,
        "collected": f"{Names(cloud).bucket}/{JOBS}/{_job(cloud, digest)}/{ARCHIVE}",
        "options": cloud.retrain.options,
    }
    train(cloud.model_copy(update={"train": cloud.train.model_copy(update=own)}), target)


def _job(cloud: CloudConfig, digest: str) -> str:
    return f"{cloud.name}-retrain-{digest}"


def _why_no_drift(names: Names) -> str:
    """Returns why a retraining is not necessary; an empty string if the last drift report found drift."""
    storage = open_storage(names.reports)
    try:
        kinds = {str(finding["kind"]) for finding in json.loads(storage.read(REPORT))["findings"]}
    except MissingFileError:
        return f"there is no drift report in {names.reports} yet"
    except (ValueError, KeyError, TypeError) as error:
        raise CloudError(
            f"{names.reports}/{REPORT} is corrupted: {error!r}. Compute a new report with `inv gcp.drift`."
        ) from error
    return "" if kinds - {HARMLESS} else "the last drift report found no drift, except perhaps for another mix of signs"


def _earlier(cloud: CloudConfig) -> list[_Earlier]:
    """Returns the retrainings that were started. Files of those that were killed before are not considered."""
    jobs = open_storage(f"{Names(cloud).bucket}/{JOBS}")
    found = []
    for name in sorted({entry.partition("/")[0] for entry in jobs.names() if entry.startswith(_job(cloud, ""))}):
        storage = open_storage(f"{jobs.url}/{name}")
        if request := read_request(storage):
            outcome = read_outcome(storage)
            ended = outcome.get("request") == request.id
            version = str(outcome.get("version", "")) if ended else ""
            found.append(_Earlier(name, _labels(storage.read(TABLE)), ended, version))
    return found


def _labels(table: bytes) -> set[tuple[str, str]]:
    rows = csv.DictReader(table.decode(errors="replace").splitlines())
    return {(str(row.get("path")), str(row.get("label"))) for row in rows}


def main(config: Config) -> None:
    """Runs `retrain` from the command line."""
    typer.echo(retrain(config.cloud))


if __name__ == "__main__":
    hydra_main(main)
