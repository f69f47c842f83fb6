"""Deletes all resources in Google Cloud: `python -m src.mlops.cloud.teardown`, or `inv gcp.teardown`."""

from src.mlops.cli import hydra_main
from src.mlops.cloud.bootstrap import ACCOUNTS, BUCKET_ROLES, LOG_ROLE, PROJECT_ROLES
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import SECRET, Names
from src.mlops.config import CloudConfig, Config
from src.mlops.errors import CloudError


def teardown(cloud: CloudConfig) -> None:
    """Deletes all resources that cause costs, and the accounts. Keeps the bucket unless `cloud.teardown.data` is set.

    Raises:
        CloudError: The deletion is not confirmed, or a step failed. Fix the cause and run the command again.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    if not (gcloud.dry_run or cloud.teardown.confirm == cloud.project):
        raise CloudError(
            f"Step 'confirm' failed: cloud.teardown.confirm is {cloud.teardown.confirm!r}. Set "
            f"cloud.teardown.confirm={cloud.project} to delete the service, the container images and the accounts, or "
            "show the commands with `--dry-run`."
        )
    gcloud.login()
    region, location = f"--region={cloud.region}", f"--location={cloud.region}"
    gcloud.remove("delete the service", "run", "services", "delete", cloud.name, region)
    job = names.drift_job
    gcloud.remove("delete the schedule of the drift job", "scheduler", "jobs", "delete", job, location)
    gcloud.remove("delete the drift job", "run", "jobs", "delete", job, region)
    gcloud.remove("delete the container images", "artifacts", "repositories", "delete", cloud.name, location)
    gcloud.remove("delete the secret", "secrets", "delete", SECRET)
    for role, right in PROJECT_ROLES:
        gcloud.remove(
            f"remove {right} from {role}",
            *("projects", "remove-iam-policy-binding", cloud.project),
            *(f"--member=serviceAccount:{names.account(role)}", f"--role={right}", "--condition=None"),
        )
    if not cloud.teardown.data:
        for role, right in (*BUCKET_ROLES, ("serve", LOG_ROLE), ("drift", LOG_ROLE)):
            gcloud.remove(
                f"remove {role} from the bucket",
                *("storage", "buckets", "remove-iam-policy-binding", names.bucket),
                *(f"--member=serviceAccount:{names.account(role)}", f"--role={right}", "--all"),
            )
    for role in ACCOUNTS:
        gcloud.remove(f"delete the account {role}", "iam", "service-accounts", "delete", names.account(role))
    if cloud.teardown.data:
        gcloud.remove("delete the bucket with data and models", "storage", "rm", "--recursive", names.bucket)


def main(config: Config) -> None:
    """Runs `teardown` from the command line."""
    teardown(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
