"""Deletes what `bootstrap` and `deploy` made: `python -m src.mlops.cloud.teardown`, or `inv gcp-teardown`."""

from src.mlops.cloud.bootstrap import ACCOUNTS, BUCKET_ROLES, PROJECT_ROLES
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import SECRET, Names
from src.mlops.config import CloudConfig, Config, hydra_main
from src.mlops.errors import CloudError


def teardown(cloud: CloudConfig) -> None:
    """Deletes all that costs something, and the accounts. The bucket stays unless `cloud.teardown.data` is set.

    Raises:
        CloudError: It was not confirmed, or a step failed. Run it again when that is mended.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    if not (gcloud.dry_run or cloud.teardown.confirm == cloud.project):
        raise CloudError(
            f"step 'confirm': expected cloud.teardown.confirm={cloud.project}, since service, images and accounts will "
            "be gone, found none. `--dry-run` shows what would be deleted."
        )
    gcloud.login()
    region, location = f"--region={cloud.region}", f"--location={cloud.region}"
    gcloud.remove("delete the schedule", "scheduler", "jobs", "delete", names.drift_job, location)
    gcloud.remove("delete the job that looks for drift", "run", "jobs", "delete", names.drift_job, region)
    gcloud.remove("delete the service", "run", "services", "delete", cloud.name, region)
    gcloud.remove("delete the images", "artifacts", "repositories", "delete", cloud.name, location)
    gcloud.remove("delete the secret", "secrets", "delete", SECRET)
    for role, right in PROJECT_ROLES:
        gcloud.remove(
            f"take {right} from {role}",
            *("projects", "remove-iam-policy-binding", cloud.project),
            *(f"--member=serviceAccount:{names.account(role)}", f"--role={right}", "--condition=None"),
        )
    if not cloud.teardown.data:
        for role, right in BUCKET_ROLES:
            gcloud.remove(
                f"take the bucket from {role}",
                *("storage", "buckets", "remove-iam-policy-binding", names.bucket),
                *(f"--member=serviceAccount:{names.account(role)}", f"--role={right}"),
            )
    for role in ACCOUNTS:
        gcloud.remove(f"delete the account {role}", "iam", "service-accounts", "delete", names.account(role))
    if cloud.teardown.data:
        gcloud.remove("delete the bucket, data and models", "storage", "rm", "--recursive", names.bucket)


def main(config: Config) -> None:
    """Runs `teardown` from the command line."""
    teardown(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
