"""Trains on Vertex AI and fetches the model: `python -m src.mlops.cloud.submit`, or `inv gcp.train`."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tenacity import retry, retry_if_result, wait_fixed

from src.mlops.cli import hydra_main
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.images import pinned_image
from src.mlops.cloud.names import JOBS, SECRET, Names, render
from src.mlops.config import CloudConfig, Config
from src.mlops.errors import CheckpointError, CloudError
from src.mlops.io.files import sha256
from src.mlops.io.storage import open_storage

logger = logging.getLogger("src.mlops.cloud.submit")
POLL_SECONDS = 30.0
SUMS = "SHA256SUMS"  # training/job.py writes it last, so its presence means that the model is complete
_ENDED = ("JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED")


def train(cloud: CloudConfig, target: Path) -> None:
    """Starts a training job, waits for its end and fetches the model; `cloud.train.action` can select a part of this.

    If `cloud.train.job` names a job that has succeeded, its model is fetched without a new job. If it names a job that
    runs, the command waits for that one. If the job was interrupted, the new job resumes from its last checkpoint.

    Args:
        cloud: Section `cloud` of the configuration.
        target: Local folder for the files of the model.

    Raises:
        CloudError: A step failed, or `action=fetch` and the job has not succeeded. The message contains its name.
        CheckpointError: The model is incomplete or corrupted.
        StorageError: The bucket cannot be accessed.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    name = f"{cloud.name}-{cloud.train.job or f'{datetime.now(UTC):%Y%m%d-%H%M%S}'}"
    output = f"{names.bucket}/{JOBS}/{name}"
    if cloud.train.job and not gcloud.dry_run and SUMS in open_storage(f"{output}/model").names():
        logger.info("Job %s has already succeeded", name)
        if cloud.train.action != "start":
            fetch_model(f"{output}/model", target)
        return
    gcloud.login()
    if cloud.train.action == "fetch":
        _, state, reason = _find(gcloud, names, name)
        if not gcloud.dry_run:
            raise CloudError(_not_succeeded(gcloud, name, state, reason))
        return
    job = _start(gcloud, names, name, output)
    place = f"--region={cloud.region}"
    logger.info("Started job %s; show its log with %s", name, _log(gcloud, name))
    if cloud.train.action == "start":
        return
    state, _, reason = _wait(gcloud, job or "JOB", place).partition("\t")
    if gcloud.dry_run:
        return
    if state != _ENDED[0]:
        raise CloudError(_not_succeeded(gcloud, name, state, reason))
    fetch_model(f"{output}/model", target)


def _not_succeeded(gcloud: Gcloud, name: str, state: str, reason: str) -> str:
    if not state:
        return f"There is no job {name}. Start it with cloud.train.action=start, or choose another cloud.train.job."
    if state not in _ENDED:
        return f"The job {name} has not ended; its state is {state}. Run this command again later."
    found = f"the job {name} ended in the state {state}: {reason or 'no reason given'}"
    return f"{gcloud.explain('train', found)} Its log: {_log(gcloud, name)}"


def _log(gcloud: Gcloud, name: str) -> str:
    """Returns the command that shows the log of a job."""
    cloud = gcloud.cloud
    job = f"$(gcloud ai custom-jobs list --filter=displayName={name} --limit=1 --format='value(name)'"
    place = f"--region={cloud.region} --project={cloud.project}"
    return f"`gcloud ai custom-jobs stream-logs {job} {place}) {place}`"


def _start(gcloud: Gcloud, names: Names, name: str, output: str) -> str:
    """Starts a job unless it runs already. Returns its number.

    The command is never repeated blindly: if it fails after the job was created, a second one would be paid as well.
    """
    job, state, _ = _find(gcloud, names, name) if names.cloud.train.job else ("", "", "")
    if job and state not in _ENDED:
        logger.info("Job %s runs already", name)
        return job
    image = pinned_image(gcloud, names, "train")
    create = (
        *("ai", "custom-jobs", "create", f"--region={names.cloud.region}", f"--display-name={name}"),
        f"--config={job_file(names, output, image)}",
        "--format=value(name)",
    )
    try:
        return gcloud.run("start the training job", *create, attempts=1).rpartition("/")[2]
    except CloudError:
        created, state, _ = _find(gcloud, names, name)
        if created in ("", job):
            raise
        logger.warning("The job was created although the command failed; its state is %s", state)
        return created


def _find(gcloud: Gcloud, names: Names, name: str) -> tuple[str, str, str]:
    """Returns number, state and error of the newest job with a name; empty strings if there is none."""
    found = gcloud.run(
        "find the training job",
        *("ai", "custom-jobs", "list", f"--region={names.cloud.region}", f"--filter=displayName={name}"),
        *("--sort-by=~createTime", "--limit=1", "--format=value(name,state,error.message)"),
    )
    path, state, reason = [*found.split("\t"), "", "", ""][:3]
    return path.rpartition("/")[2], state, reason


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
    data = ["--data", settings.data] if settings.data else []
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
        target: Local folder for the files.

    Raises:
        CheckpointError: The model is incomplete or corrupted.
        StorageError: The model cannot be read.
    """
    storage = open_storage(url)
    if SUMS not in storage.names():
        raise CheckpointError(f"The model at {url} is incomplete: {SUMS} is missing. See the log of the job.")
    for line in storage.read(SUMS).decode().splitlines():
        digest, _, name = line.partition("  ")
        storage.download(name, target / name)
        if sha256(target / name) != digest:
            raise CheckpointError(f"{url}/{name} is corrupted: its SHA-256 is not {digest}. Train the model again.")
    logger.info("Saved the model to %s", target)


def _wait(gcloud: Gcloud, job: str, place: str) -> str:
    again = retry(
        retry=retry_if_result(lambda said: not gcloud.dry_run and not said.startswith(_ENDED)),
        wait=wait_fixed(POLL_SECONDS),
    )
    state: str = again(gcloud.run)(
        "describe the job", "ai", "custom-jobs", "describe", job, place, "--format=value(state,error.message)"
    )
    return state


def main(config: Config) -> None:
    """Runs `train` from the command line."""
    train(config.cloud, config.ckpt_path.parent)


if __name__ == "__main__":
    hydra_main(main)
