"""Trains on Vertex AI and fetches the model: `python -m src.mlops.cloud.train`, or `inv gcp-train`."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tenacity import retry, retry_if_result, wait_fixed

from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import JOBS, SECRET, Names, render
from src.mlops.config import CloudConfig, Config, hydra_main
from src.mlops.errors import CheckpointError, CloudError
from src.mlops.storage import open_storage, sha256

logger = logging.getLogger("src.mlops.cloud.train")
POLL_SECONDS = 30.0
SUMS = "SHA256SUMS"  # as train_job.py writes it, last
_ENDED = ("JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED")


def train(cloud: CloudConfig, target: Path) -> None:
    """Starts a job with the train image, waits for its end and fetches what it made.

    A job that was named and has ended well is not started again; one that was broken off goes on.

    Args:
        cloud: What to train, on which machines.
        target: Folder for the model's files.

    Raises:
        CloudError: A step failed; the message names it.
        CheckpointError: The model is not whole.
        StorageError: The bucket cannot be used.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    name = f"{cloud.name}-{cloud.train.job or f'{datetime.now(UTC):%Y%m%d-%H%M%S}'}"
    output = f"{names.bucket}/{JOBS}/{name}"
    if cloud.train.job and not gcloud.dry_run and SUMS in open_storage(f"{output}/model").names():
        logger.info("job %s has ended well", name)
        fetch_model(f"{output}/model", target)
        return
    gcloud.login()
    require_image(gcloud, names, "train")
    place = f"--region={cloud.region}"
    job = gcloud.run(
        "start the training job",
        *("ai", "custom-jobs", "create", place, f"--display-name={name}", f"--config={job_file(names, output)}"),
        "--format=value(name)",
    ).rpartition("/")[2]
    logger.info("job %s; its log: gcloud ai custom-jobs stream-logs %s %s", name, job, place)
    state, _, reason = _wait(gcloud, job or "JOB", place).partition("\t")
    if gcloud.dry_run:
        return
    if state != _ENDED[0]:
        raise CloudError(
            f"step 'train': expected the job {name} to succeed, found {state}: {reason or 'no reason given'}. Its log: "
            f"gcloud ai custom-jobs stream-logs {job} {place} --project={cloud.project}."
        )
    fetch_model(f"{output}/model", target)


def job_file(names: Names, output: str) -> Path:
    """Writes the description of the job.

    Args:
        names: What things are called.
        output: Folder of the bucket for all that the job makes.
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
        image=names.image("train"),
        arguments=[*data, *settings.options],
        environment=[{"name": "WANDB_SECRET", "value": secret}],  # its name; the container reads it as its own account
        timeout=f"{settings.hours * 3600}s",
        account=names.account("train"),
        output=output,
        others=settings.replicas - 1,
    )


def require_image(gcloud: Gcloud, names: Names, kind: str) -> None:
    """Finds out first whether there is an image of the checked-out commit.

    Raises:
        CloudError: There is none.
    """
    words = ("artifacts", "docker", "images", "describe", names.image(kind))
    if not gcloud.exists("find the image", *words) and not gcloud.dry_run:
        raise CloudError(
            f"step 'find the image': expected {names.image(kind)}, found none. Build it: `inv gcp-build`, or name "
            "another with cloud.tag."
        )


def fetch_model(url: str, target: Path) -> None:
    """Fetches a model that a job handed over, if it is whole.

    Raises:
        CheckpointError: It is not.
        StorageError: It cannot be read.
    """
    storage = open_storage(url)
    if SUMS not in storage.names():
        raise CheckpointError(f"expected a whole model at {url}, found none with {SUMS}. Look at the job's log.")
    for line in storage.read(SUMS).decode().splitlines():
        digest, _, name = line.partition("  ")
        storage.download(name, target / name)
        if sha256(target / name) != digest:
            raise CheckpointError(f"expected {url}/{name} with SHA-256 {digest}, found another. Train it again.")
    logger.info("the model is in %s", target)


def _wait(gcloud: Gcloud, job: str, place: str) -> str:
    again = retry(
        retry=retry_if_result(lambda said: not gcloud.dry_run and not said.startswith(_ENDED)),
        wait=wait_fixed(POLL_SECONDS),
    )
    state: str = again(gcloud.run)(
        "look at the job", "ai", "custom-jobs", "describe", job, place, "--format=value(state,error.message)"
    )
    return state


def main(config: Config) -> None:
    """Runs `train` from the command line."""
    train(config.cloud, config.ckpt_path.parent)


if __name__ == "__main__":
    hydra_main(main)
