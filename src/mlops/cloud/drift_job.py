"""Reports drift in Cloud Run, now and on a schedule: `python -m src.mlops.cloud.drift_job`, or `inv gcp.drift`."""

import logging

from src.mlops.cli import hydra_main
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import Names, render
from src.mlops.config import CloudConfig, Config
from src.mlops.errors import CloudError

logger = logging.getLogger("src.mlops.cloud.drift_job")


def run_drift_job(cloud: CloudConfig) -> None:
    """Updates the job, runs it, waits for the report, and sets its schedule.

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
    gcloud.require_image(names.image("drift"))
    update_job(gcloud, names)
    gcloud.run("run the drift job", *_job(names, "execute", names.drift_job), "--wait")
    logger.info("The report is at %s/drift.html", names.reports)
    _schedule(gcloud, names)


def update_job(gcloud: Gcloud, names: Names) -> None:
    """Makes the job use the container image of the checked-out commit, which has the same model as the service."""
    template = render(
        "drift-job.yaml",
        names.cloud,
        name=names.drift_job,
        image=names.image("drift"),
        account=names.account("drift"),
        reports=names.reports,
    )
    gcloud.run("update the drift job", *_job(names, "replace", str(template)))


def _schedule(gcloud: Gcloud, names: Names) -> None:
    job, jobs, place = names.drift_job, ("scheduler", "jobs"), f"--location={names.cloud.region}"
    if not names.cloud.drift.schedule:
        gcloud.remove("delete the schedule of the drift job", *jobs, "delete", job, place)
        return
    account = names.account("drift")
    gcloud.run(
        "allow the schedule to start the drift job",
        *_job(names, "add-iam-policy-binding", job),
        *(f"--member=serviceAccount:{account}", "--role=roles/run.invoker"),
    )
    there = gcloud.exists("find the schedule of the drift job", *jobs, "describe", job, place)
    path = f"projects/{names.cloud.project}/locations/{names.cloud.region}/jobs/{job}"
    gcloud.run(
        "schedule the drift job",
        *(*jobs, "update" if there else "create", "http", job, place, f"--schedule={names.cloud.drift.schedule}"),
        *("--time-zone=Etc/UTC", f"--uri=https://run.googleapis.com/v2/{path}:run", "--http-method=POST"),
        f"--oauth-service-account-email={account}",
    )


def _job(names: Names, verb: str, what: str) -> tuple[str, ...]:
    return ("run", "jobs", verb, what, f"--region={names.cloud.region}")


def main(config: Config) -> None:
    """Runs `run_drift_job` from the command line."""
    run_drift_job(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
