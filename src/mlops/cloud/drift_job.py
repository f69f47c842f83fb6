"""Reports drift in Cloud Run: `python -m src.mlops.cloud.drift_job`, or `inv gcp.drift`.

`inv gcp.bootstrap` creates the job and its schedule, because the account that deploys may not set policies.
"""

import logging

from src.mlops.cli import hydra_main
from src.mlops.cloud.access import INVOKE, member
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.images import pinned_image
from src.mlops.cloud.names import Names, render
from src.mlops.cloud.promoted import model_to_serve
from src.mlops.config import CloudConfig, Config
from src.mlops.errors import CloudError

logger = logging.getLogger("src.mlops.cloud.drift_job")
_PLACEHOLDER = "us-docker.pkg.dev/cloudrun/container/job"  # of Google; the job fails until the first deployment


def run_drift_job(cloud: CloudConfig) -> None:
    """Updates the job, runs it and waits for the report.

    Raises:
        CloudError: Predictions are not recorded, or a step failed.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    if not cloud.prediction_log:
        raise CloudError(
            "Predictions are not recorded, because cloud.prediction_log is null. Set it to "
            f"{names.bucket}/prediction_log, run `inv gcp.bootstrap` and `inv gcp.deploy`, then run this command again."
        )
    gcloud.login()
    update_job(gcloud, names, pinned_image(gcloud, names, "drift"), model_to_serve(gcloud, names))
    gcloud.run("run the drift job", *_job(names, "execute", names.drift_job), "--wait")
    logger.info("The report is at %s/drift.html", names.reports)


def update_job(gcloud: Gcloud, names: Names, image: str, model: str) -> None:
    """Makes the job use a container image, and the same model as the service."""
    template = render(
        "drift-job.yaml",
        names.cloud,
        name=names.drift_job,
        image=image,
        model=model,
        account=names.account("drift"),
        reports=names.reports,
    )
    gcloud.run("update the drift job", *_job(names, "replace", str(template)))


def schedule_job(gcloud: Gcloud, names: Names) -> None:
    """Sets or deletes the schedule of the job, and creates the job if it does not exist."""
    job, jobs, place = names.drift_job, ("scheduler", "jobs"), f"--location={names.cloud.region}"
    if not (names.cloud.prediction_log and names.cloud.drift.schedule):
        gcloud.remove("delete the schedule of the drift job", *jobs, "delete", job, place)
        return
    if not gcloud.exists("find the drift job", *_job(names, "describe", job)):
        update_job(gcloud, names, _PLACEHOLDER, "none")
    gcloud.run(
        "allow the schedule to start the drift job",
        *_job(names, "add-iam-policy-binding", job),
        *member(names, "drift", INVOKE),
    )
    there = gcloud.exists("find the schedule of the drift job", *jobs, "describe", job, place)
    path = f"projects/{names.cloud.project}/locations/{names.cloud.region}/jobs/{job}"
    gcloud.run(
        "schedule the drift job",
        *(*jobs, "update" if there else "create", "http", job, place, f"--schedule={names.cloud.drift.schedule}"),
        *("--time-zone=Etc/UTC", f"--uri=https://run.googleapis.com/v2/{path}:run", "--http-method=POST"),
        f"--oauth-service-account-email={names.account('drift')}",
    )


def _job(names: Names, verb: str, what: str) -> tuple[str, ...]:
    return ("run", "jobs", verb, what, f"--region={names.cloud.region}")


def main(config: Config) -> None:
    """Runs `run_drift_job` from the command line."""
    run_drift_job(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
