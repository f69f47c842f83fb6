"""Deletes all resources in Google Cloud: `python -m src.mlops.cloud.teardown`, or `inv gcp.teardown`."""

from src.mlops.cli import hydra_main
from src.mlops.cloud.access import ACCOUNTS, PROJECT_ROLES, folder_roles, inside, member, secrets_of
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.monitoring import unmonitor
from src.mlops.cloud.names import Names
from src.mlops.config import CloudConfig, Config
from src.mlops.errors import CloudError
from src.mlops.modelfile.store import STAGES


def teardown(cloud: CloudConfig) -> None:
    """Deletes all resources that cause costs, and the accounts. Keeps the bucket unless `cloud.teardown.data` is set.

    Raises:
        CloudError: The deletion is not confirmed, or a step failed. Fix the cause and run the command again.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    if not (gcloud.dry_run or cloud.teardown.confirm == cloud.project):
        raise CloudError(
            f"Step 'confirm' failed: cloud.teardown.confirm is {cloud.teardown.confirm!r}. Set "
            f"cloud.teardown.confirm={cloud.project} to delete the services, the container images and the accounts, or "
            "show the commands with `--dry-run`."
        )
    gcloud.login()
    unmonitor(gcloud, names.in_stage("production"))
    region, location = f"--region={cloud.region}", f"--location={cloud.region}"
    for stage in STAGES:
        service = names.service_in(stage)
        gcloud.remove(f"delete the service {service}", "run", "services", "delete", service, region)
    job = names.drift_job
    gcloud.remove("delete the schedule of the drift job", "scheduler", "jobs", "delete", job, location)
    gcloud.remove("delete the drift job", "run", "jobs", "delete", job, region)
    for repository in (cloud.name, names.cache):
        gcloud.remove(
            f"delete the container images in {repository}", "artifacts", "repositories", "delete", repository, location
        )
    for secret in secrets_of(names):
        gcloud.remove(f"delete the secret {secret}", "secrets", "delete", secret)
    for role, right in PROJECT_ROLES:
        gcloud.remove(
            f"remove {right} from {role}",
            *("projects", "remove-iam-policy-binding", cloud.project, *member(names, role, right), "--condition=None"),
        )
    if not cloud.teardown.data:
        for role, right, folders in folder_roles(names):
            gcloud.remove(
                f"remove {role} from the bucket",
                *("storage", "buckets", "remove-iam-policy-binding", names.bucket, *member(names, role, right)),
                inside(names, folders),
            )
    for role in ACCOUNTS:
        gcloud.remove(f"delete the account {role}", "iam", "service-accounts", "delete", names.account(role))
    gcloud.remove("delete the bucket with builds", "storage", "rm", "--recursive", names.builds)
    if cloud.teardown.data:
        gcloud.remove("delete the bucket with data and models", "storage", "rm", "--recursive", names.bucket)


def main(config: Config) -> None:
    """Runs `teardown` from the command line."""
    teardown(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
