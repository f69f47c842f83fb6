"""Which account has which role on which resource, and the steps that grant the roles."""

from collections.abc import Iterator

from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import JOBS, PROCESSED, RAW, SECRET, Names

ACCOUNTS = {
    "train": "training job: reads data, writes prepared data and its own output",
    "serve": "service: reads models, writes the prediction log and metrics",
    "drift": "drift job: reads models and the prediction log, writes reports",
    "build": "Cloud Build and workflows that deploy: builds, starts jobs, registers, deploys, reads the prediction log",
    "measure": "workflows that measure a version: reads data, models and the output of jobs",
    "report": "workflows of pull requests: reads data",
}
# Project-wide roles, only for permissions that cannot be granted on a single resource.
PROJECT_ROLES = (
    ("build", "roles/aiplatform.user"),
    ("build", "roles/cloudbuild.builds.editor"),
    ("build", "roles/run.developer"),
    ("build", "roles/serviceusage.serviceUsageConsumer"),
    ("serve", "roles/monitoring.metricWriter"),
    ("train", "roles/logging.logWriter"),
)
# Only on the bucket for builds. Cloud Build needs this role to write its log there.
BUILDS_ROLE = ("build", "roles/storage.admin")
REGISTRY_ROLES = (("build", "roles/artifactregistry.writer"), ("train", "roles/artifactregistry.reader"))
READ_SECRET = "roles/secretmanager.secretAccessor"  # noqa: S105 - a role
WANDB_ROLES = (("train", READ_SECRET), ("build", READ_SECRET))
# (account, account to impersonate, role): who may run something as another account, or get its identity token.
ACTS_AS = (
    ("build", "train", "roles/iam.serviceAccountUser"),
    ("build", "serve", "roles/iam.serviceAccountUser"),
    ("build", "drift", "roles/iam.serviceAccountUser"),
    ("build", "build", "roles/iam.serviceAccountUser"),
    ("build", "build", "roles/iam.serviceAccountOpenIdTokenCreator"),
)
READ, WRITE = "roles/storage.objectViewer", "roles/storage.objectUser"
INVOKE = "roles/run.invoker"
# Roles that earlier releases granted on the whole bucket or project. The next bootstrap removes them.
FORMER_BUCKET_ROLES = (
    ("serve", READ),
    ("drift", READ),
    ("train", WRITE),
    ("build", WRITE),
    ("build", "roles/storage.legacyBucketReader"),
    ("report", READ),
)
FORMER_PROJECT_ROLES = (("build", "roles/logging.logWriter"), ("build", INVOKE))


def folder_roles(names: Names) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yields an account, its role, and the folders of the bucket in which it has that role."""
    data, models = (*RAW, PROCESSED), names.folder(names.cloud.models)
    yield "serve", READ, (models,)
    yield "train", READ, RAW
    yield "train", WRITE, (JOBS, PROCESSED)
    yield "build", READ, RAW
    yield "build", WRITE, (models, JOBS, PROCESSED)
    yield "measure", READ, (*data, models, JOBS)
    yield "report", READ, data
    if names.cloud.prediction_log:
        log = names.folder(names.cloud.prediction_log)
        yield "serve", WRITE, (log,)
        yield "build", READ, (log,)  # labels, images and drift reports, for `retrain.py`
        yield "drift", READ, (models, log)
        yield "drift", WRITE, (names.folder(names.reports),)


def grant_folders(gcloud: Gcloud, names: Names) -> None:
    """Limits each account to its folders of the bucket."""
    for role, right in FORMER_BUCKET_ROLES:
        gcloud.remove(
            f"remove the access of {role} to the whole bucket",
            *("storage", "buckets", "remove-iam-policy-binding", names.bucket, *member(names, role, right)),
            "--condition=None",
        )
    for role, right, folders in folder_roles(names):
        gcloud.run(
            f"grant {role} access to {', '.join(folders)} in the bucket",
            *("storage", "buckets", "add-iam-policy-binding", names.bucket, *member(names, role, right)),
            inside(names, folders),
        )


def inside(names: Names, folders: tuple[str, ...]) -> str:
    """Returns the option that limits a role to folders of the bucket.

    Objects are listed with a permission on the bucket, so the condition also compares the prefix of a list request.
    """
    clauses = []
    for folder in folders:
        clauses += [
            f"resource.name.startsWith('projects/_/buckets/{names.cloud.bucket}/objects/{folder}/')",
            f"api.getAttribute('storage.googleapis.com/objectListPrefix', '').startsWith('{folder}/')",
        ]
    title = "-".join(folder.replace("/", "_") for folder in folders)
    return f"--condition=^~^title={title}~expression={' || '.join(clauses)}"  # `^~^` sets ~ as the separator


def grant_project(gcloud: Gcloud, names: Names) -> None:
    """Grants the project-wide roles, and lets accounts act as others."""
    projects, option = ("projects", "add-iam-policy-binding", names.cloud.project), "--condition=None"
    for role, right in PROJECT_ROLES:
        gcloud.run(f"grant {right} to {role}", *projects, *member(names, role, right), option)
    for role, right in FORMER_PROJECT_ROLES:
        gcloud.remove(
            f"remove {right} from {role}",
            *("projects", "remove-iam-policy-binding", names.cloud.project, *member(names, role, right), option),
        )
    for role, other, right in ACTS_AS:
        gcloud.run(
            f"allow {role} to act as {other}",
            *("iam", "service-accounts", "add-iam-policy-binding", names.account(other), *member(names, role, right)),
        )


def grant_secret(gcloud: Gcloud, names: Names, secret: str, roles: tuple[tuple[str, str], ...]) -> None:
    """Lets accounts read a secret."""
    for role, right in roles:
        gcloud.run(
            f"grant {role} access to the secret {secret}",
            *("secrets", "add-iam-policy-binding", secret, *member(names, role, right)),
        )


def member(names: Names, role: str, right: str) -> tuple[str, str]:
    """Returns the options for a service account and a role."""
    return f"--member=serviceAccount:{names.account(role)}", f"--role={right}"


def secrets_of(names: Names) -> tuple[str, ...]:
    """Returns the names of all secrets."""
    return SECRET, names.api_keys, names.admin_token
