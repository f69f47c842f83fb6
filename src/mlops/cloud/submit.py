"""Trains on Vertex AI and fetches the model: `python -m src.mlops.cloud.submit`, or `inv gcp.train`."""

import logging
import re
import secrets
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tenacity import retry, retry_if_result, wait_fixed

from src.mlops.cli import hydra_main
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.images import pinned_image
from src.mlops.cloud.jobs import (
    SUCCEEDED,
    SUMS,
    Attempt,
    Request,
    failure,
    find_attempts,
    keep_first,
    mark_for_registration,
    start,
)
from src.mlops.cloud.names import JOBS, SECRET, Names, render
from src.mlops.config import CloudConfig, Config
from src.mlops.errors import CheckpointError, CloudError, ConfigError, MissingFileError
from src.mlops.io.files import sha256
from src.mlops.io.storage import open_storage

logger = logging.getLogger("src.mlops.cloud.submit")
POLL_SECONDS = 30.0
_SUM = re.compile(r"([0-9a-f]{64})  (\w[\w.-]*)")


def train(cloud: CloudConfig, target: Path) -> None:
    """Starts a training job, waits for its end and fetches the model, or does a part of this (`cloud.train.action`).

    If `cloud.train.job` names a job that has succeeded, its model is fetched without a new job. If the job is running,
    no second one is started. If it was interrupted, a new attempt resumes from its last checkpoint.

    Args:
        cloud: Section `cloud` of the configuration.
        target: Local folder for the files of the model.

    Raises:
        CloudError: A step failed. The message contains its name.
        ConfigError: The action is `fetch`, but no job is named.
        CheckpointError: The model is incomplete or corrupted.
        StorageError: The bucket cannot be accessed.
    """
    gcloud, names, settings = Gcloud(cloud), Names(cloud), cloud.train
    if settings.action == "fetch" and not settings.job:
        raise ConfigError("cloud.train.action=fetch needs the name of the job, cloud.train.job.")
    # Two commands in the same second must not get the same name.
    name = f"{cloud.name}-{settings.job or f'{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}'}"
    output = f"{names.bucket}/{JOBS}/{name}"
    if settings.job and not gcloud.dry_run and SUMS in open_storage(f"{output}/model").names():
        logger.info("Job %s has already succeeded", name)
        if settings.action == "start":
            mark_for_registration(output, name)
        else:
            fetch_model(f"{output}/model", target)
        return
    gcloud.login()
    if settings.action == "fetch":
        attempts = find_attempts(gcloud, name)
        if gcloud.dry_run:
            return
        raise CloudError(_not_ready(gcloud, name, attempts))
    attempt = _start(gcloud, names, name, output)
    if settings.action == "start":
        return
    ended = _wait(gcloud, attempt)
    if gcloud.dry_run:
        return
    if ended.state != SUCCEEDED:
        raise CloudError(failure(gcloud, name, ended))
    fetch_model(f"{output}/model", target)


def job_file(names: Names, output: str, image: str) -> Path:
    """Writes the description of the job to a file and returns its path.

    Args:
        names: Names of the resources.
        output: URL of the folder for the output of the job.
        image: Address of the container image.
    """
    settings = names.cloud.train
    machine: dict[str, Any] = {"machineType": settings.machine}
    if settings.accelerator:
        machine |= {"acceleratorType": settings.accelerator, "acceleratorCount": settings.accelerators}
    data = [word for name in ("data", "collected") if (url := getattr(settings, name)) for word in (f"--{name}", url)]
    secret = f"projects/{names.cloud.project}/secrets/{SECRET}"
    return render(
        "vertex-job.yaml" if settings.replicas == 1 else "vertex-job-distributed.yaml",
        names.cloud,
        machine=machine,
        image=image,
        arguments=[*data, *settings.options],
        environment=[{"name": "WANDB_SECRET", "value": secret}],  # the container reads it with its own account
        timeout=f"{settings.hours * 3600}s",
        account=names.account("train"),
        output=output,
        others=settings.replicas - 1,
    )


def fetch_model(url: str, target: Path) -> None:
    """Fetches the model of a job and checks that it is complete.

    Args:
        url: Folder with the files of the model and their checksums.
        target: Local folder for the files. Existing files are replaced when all files are there and checked.

    Raises:
        CheckpointError: The model is incomplete or corrupted.
        StorageError: The model cannot be read.
    """
    storage = open_storage(url)
    try:
        sums = storage.read(SUMS).decode(errors="replace")
    except MissingFileError as error:
        raise CheckpointError(
            f"The model at {url} is incomplete: {SUMS} is missing. See the log of the job."
        ) from error
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".fetch-") as work:
        names = []
        for line in sums.splitlines():
            found = _SUM.fullmatch(line)
            if not found:
                raise CheckpointError(f"{url}/{SUMS} is corrupted: {line[:100]!r} is not a checksum and a file name.")
            digest, name = found.groups()
            storage.download(name, Path(work, name))
            if sha256(Path(work, name)) != digest:
                raise CheckpointError(f"{url}/{name} is corrupted: its SHA-256 is not {digest}. Train the model again.")
            names.append(name)
        for name in names:
            Path(work, name).replace(target / name)
    logger.info("Saved the model to %s", target)


def _start(gcloud: Gcloud, names: Names, name: str, output: str) -> str:
    """Returns the resource name of a running attempt, which is started if there is none."""
    cloud, settings = gcloud.cloud, gcloud.cloud.train
    running = [attempt for attempt in find_attempts(gcloud, name) if not attempt.ended] if settings.job else []
    if running:
        attempt = keep_first(gcloud, running).name
        logger.info("Job %s is already running", name)
        if settings.action == "start":
            mark_for_registration(output, name)
    else:
        image = pinned_image(gcloud, names, "train")
        given = {"image": image, "data": settings.data, "options": list(settings.options)}
        if settings.collected:  # requests of earlier releases do not have this key
            given["collected"] = settings.collected
        request = Request(given, register=settings.action == "start")
        attempt = start(gcloud, output, name, request, job_file(names, output, image))
    logger.info(
        "Started the job %s; show its log with `gcloud ai custom-jobs stream-logs %s --region=%s`. To wait for it and "
        "fetch its model, use -o cloud.train.job=%s",
        name,
        attempt.rpartition("/")[2],
        cloud.region,
        name.removeprefix(f"{cloud.name}-"),
    )
    return attempt


def _not_ready(gcloud: Gcloud, name: str, attempts: list[Attempt]) -> str:
    if not attempts:
        return f"There is no job {name} with a model. Check cloud.train.job, or start the job with `inv gcp.train`."
    if not attempts[0].ended:
        return f"The job {name} has no model yet: its state is {attempts[0].state}. Run the command again later."
    return failure(gcloud, name, attempts[0])


def _wait(gcloud: Gcloud, attempt: str) -> Attempt:
    def describe() -> Attempt:
        words = (
            "ai",
            "custom-jobs",
            "describe",
            attempt.rpartition("/")[2] or "JOB",
            f"--region={gcloud.cloud.region}",
        )
        state, _, reason = gcloud.run("describe the job", *words, "--format=value(state,error.message)").partition("\t")
        return Attempt(attempt, state, reason)

    again = retry(
        retry=retry_if_result(lambda said: not gcloud.dry_run and not said.ended),
        wait=wait_fixed(POLL_SECONDS),
    )
    return again(describe)()


def main(config: Config) -> None:
    """Runs `train` from the command line."""
    train(config.cloud, config.ckpt_path.parent)


if __name__ == "__main__":
    hydra_main(main)
