"""Creates the resources in Google Cloud: `python -m src.mlops.cloud.bootstrap`, or `inv gcp.bootstrap`."""

from src.mlops.cli import hydra_main
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import SECRET, TEMPLATES, Names
from src.mlops.config import CloudConfig, Config
from src.mlops.modelfile.store import model_name

SERVICES = (
    "aiplatform",
    "artifactregistry",
    "billingbudgets",
    "cloudbuild",
    "cloudscheduler",
    "iamcredentials",
    "run",
    "secretmanager",
    "storage",
)
ACCOUNTS = {
    "train": "training job: reads data and writes models",
    "serve": "service: reads models, writes the prediction log",
    "drift": "drift job: reads models and the prediction log, writes reports",
    "build": "Cloud Build: builds, trains and deploys",
    "report": "workflows of pull requests: reads data",
}
# Project-wide roles, only for permissions that cannot be granted on a single resource.
PROJECT_ROLES = (
    ("build", "roles/aiplatform.user"),
    ("build", "roles/cloudbuild.builds.editor"),
    ("build", "roles/logging.logWriter"),
    ("build", "roles/run.developer"),
    ("build", "roles/run.invoker"),
    ("build", "roles/serviceusage.serviceUsageConsumer"),
    ("train", "roles/logging.logWriter"),
)
BUCKET_ROLES = (
    ("serve", "roles/storage.objectViewer"),
    ("drift", "roles/storage.objectViewer"),
    ("train", "roles/storage.objectUser"),
    ("build", "roles/storage.objectUser"),
    ("build", "roles/storage.legacyBucketReader"),
    ("report", "roles/storage.objectViewer"),
)
LOG_ROLE = "roles/storage.objectUser"  # of `serve` in the prediction log, and of `drift` in its reports
REGISTRY_ROLES = (("build", "roles/artifactregistry.writer"), ("train", "roles/artifactregistry.reader"))
SECRET_ROLES = (("train", "roles/secretmanager.secretAccessor"), ("build", "roles/secretmanager.secretAccessor"))
# (account, account to impersonate, role): who may run something as another account, or get its identity token.
ACTS_AS = (
    ("build", "train", "roles/iam.serviceAccountUser"),
    ("build", "serve", "roles/iam.serviceAccountUser"),
    ("build", "drift", "roles/iam.serviceAccountUser"),
    ("build", "build", "roles/iam.serviceAccountUser"),
    ("build", "build", "roles/iam.serviceAccountOpenIdTokenCreator"),
)
NO_SECRET = "none"  # noqa: S105 - placeholder until a key is added
_POOL = "github"


def bootstrap(cloud: CloudConfig) -> None:
    """Creates all resources for training and serving. Existing resources are not changed.

    Raises:
        CloudError: A step failed. Fix the cause and run the command again; completed steps are skipped.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    gcloud.login()
    gcloud.run("enable the services", "services", "enable", *(f"{name}.googleapis.com" for name in SERVICES))
    _accounts(gcloud, names)
    _bucket(gcloud, names)
    _images(gcloud, names)
    _secret(gcloud, names)
    for role, right in PROJECT_ROLES:
        gcloud.run(
            f"grant {right} to {role}",
            *("projects", "add-iam-policy-binding", cloud.project, *_binding(names, role, right), "--condition=None"),
        )
    for role, other, right in ACTS_AS:
        gcloud.run(
            f"allow {role} to act as {other}",
            *("iam", "service-accounts", "add-iam-policy-binding", names.account(other)),
            *_binding(names, role, right),
        )
    if cloud.github:
        _github(gcloud, names, cloud.github)
    _budget(gcloud, names)


def _accounts(gcloud: Gcloud, names: Names) -> None:
    for role, purpose in ACCOUNTS.items():
        name = names.account(role)
        gcloud.ensure(
            f"create the account {name.partition('@')[0]}",
            ("iam", "service-accounts", "describe", name),
            ("iam", "service-accounts", "create", name.partition("@")[0], f"--description={purpose}"),
        )


def _bucket(gcloud: Gcloud, names: Names) -> None:
    buckets = ("storage", "buckets")
    gcloud.ensure(
        "create the bucket",
        (*buckets, "describe", names.bucket),
        (
            *(*buckets, "create", names.bucket, f"--location={names.cloud.region}"),
            *("--uniform-bucket-level-access", "--public-access-prevention"),
        ),
    )
    gcloud.run(
        "set versioning and lifecycle of the bucket",
        *(*buckets, "update", names.bucket, "--versioning", f"--lifecycle-file={TEMPLATES / 'lifecycle.json'}"),
    )
    for role, right in BUCKET_ROLES:
        gcloud.run(
            f"grant {role} access to the bucket",
            *(*buckets, "add-iam-policy-binding", names.bucket, *_binding(names, role, right), "--condition=None"),
        )
    if names.cloud.prediction_log:
        folders = {"serve": names.cloud.prediction_log, "drift": names.reports}
        for role, folder in folders.items():
            gcloud.run(
                f"grant {role} access to {folder}",
                *(*buckets, "add-iam-policy-binding", names.bucket, *_binding(names, role, LOG_ROLE)),
                f"--condition={_below(names, folder)}",
            )


def _below(names: Names, folder: str) -> str:
    """Returns a condition that limits a role to the objects in a folder of the bucket."""
    prefix = f"projects/_/buckets/{names.cloud.bucket}/objects{folder.removeprefix(names.bucket)}/"
    return f'title={folder.rpartition("/")[2]},expression=resource.name.startsWith("{prefix}")'


def _images(gcloud: Gcloud, names: Names) -> None:
    repositories, place = ("artifacts", "repositories"), f"--location={names.cloud.region}"
    gcloud.ensure(
        "create the repository for container images",
        (*repositories, "describe", names.cloud.name, place),
        (*repositories, "create", names.cloud.name, place, "--repository-format=docker"),
    )
    gcloud.run(
        "set the cleanup policy for container images",
        *(*repositories, "set-cleanup-policies", names.cloud.name, place),
        *(f"--policy={TEMPLATES / 'cleanup.json'}", "--no-dry-run"),
    )
    for role, right in REGISTRY_ROLES:
        gcloud.run(
            f"grant {role} access to the container images",
            *(*repositories, "add-iam-policy-binding", names.cloud.name, place, *_binding(names, role, right)),
        )


def _secret(gcloud: Gcloud, names: Names) -> None:
    if not gcloud.exists("find the secret", "secrets", "describe", SECRET):
        gcloud.run("create the secret", "secrets", "create", SECRET, "--replication-policy=automatic")
    if not gcloud.exists(
        "find a version of the secret", "secrets", "versions", "describe", "latest", f"--secret={SECRET}"
    ):
        # Cloud Build does not start if a secret in cloudbuild.yaml has no version.
        gcloud.run(
            "add a placeholder to the secret", "secrets", "versions", "add", SECRET, "--data-file=-", stdin=NO_SECRET
        )
    for role, right in SECRET_ROLES:
        gcloud.run(
            f"grant {role} access to the secret",
            "secrets",
            "add-iam-policy-binding",
            SECRET,
            *_binding(names, role, right),
        )


def _github(gcloud: Gcloud, names: Names, repository: str) -> None:
    """Allows workflows of one GitHub repository to act without a key: trusted ones can build, others only read data."""
    pools = ("iam", "workload-identity-pools")
    gcloud.ensure(
        "create the workload identity pool",
        (*pools, "describe", _POOL, "--location=global"),
        (*pools, "create", _POOL, "--location=global"),
    )
    pool = ("--location=global", f"--workload-identity-pool={_POOL}")
    # Workflows of the main branch and of the registry's tags act as `build`, all other workflows as `report`.
    trusted = f"assertion.ref=='refs/heads/main' || assertion.ref.startsWith('refs/tags/{model_name()}')"
    gcloud.ensure(
        "create the identity provider for GitHub",
        (*pools, "providers", "describe", _POOL, *pool),
        (
            *(*pools, "providers", "create-oidc", _POOL, *pool),
            "--issuer-uri=https://token.actions.githubusercontent.com",
            f"--attribute-mapping=google.subject=assertion.sub,attribute.role={trusted} ? 'build' : 'report'",
            f"--attribute-condition=assertion.repository=='{repository}'",
        ),
    )
    number = gcloud.run(
        "find the number of the project", "projects", "describe", names.cloud.project, *_value("projectNumber")
    )
    place = f"projects/{number or 'NUMBER'}/locations/global/workloadIdentityPools/{_POOL}"
    for role in ("build", "report"):
        gcloud.run(
            f"allow workflows of {repository} to act as {role}",
            *("iam", "service-accounts", "add-iam-policy-binding", names.account(role)),
            *(
                f"--member=principalSet://iam.googleapis.com/{place}/attribute.role/{role}",
                "--role=roles/iam.workloadIdentityUser",
            ),
        )


def _budget(gcloud: Gcloud, names: Names) -> None:
    account = gcloud.run(
        "find the billing account",
        *("billing", "projects", "describe", names.cloud.project, *_value("billingAccountName")),
    ).removeprefix("billingAccounts/")
    budgets, title = ("billing", "budgets"), names.cloud.name
    which = f"--billing-account={account or 'ACCOUNT'}"
    there = gcloud.run("find the budget", *(*budgets, "list", which, f"--filter=displayName={title}", *_value("name")))
    if not there:
        gcloud.run(
            "create the budget",
            *(*budgets, "create", which, f"--display-name={title}", f"--budget-amount={names.cloud.budget}"),
            f"--filter-projects=projects/{names.cloud.project}",
            *(f"--threshold-rule=percent={percent}" for percent in (0.5, 0.9, 1.0)),
        )


def _binding(names: Names, role: str, right: str) -> tuple[str, str]:
    return f"--member=serviceAccount:{names.account(role)}", f"--role={right}"


def _value(key: str) -> tuple[str]:
    return (f"--format=value({key})",)


def main(config: Config) -> None:
    """Runs `bootstrap` from the command line."""
    bootstrap(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
