"""Creates the resources in Google Cloud: `python -m src.mlops.cloud.bootstrap`, or `inv gcp.bootstrap`."""

import logging
import secrets

from src.mlops.cli import hydra_main
from src.mlops.cloud.access import (
    ACCOUNTS,
    BUILDS_ROLE,
    INVOKE,
    READ_SECRET,
    REGISTRY_ROLES,
    WANDB_ROLES,
    grant_folders,
    grant_project,
    grant_secret,
    member,
)
from src.mlops.cloud.drift_job import schedule_job
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.github import trust_workflows
from src.mlops.cloud.names import PLACEHOLDER, SECRET, TEMPLATES, Names, render
from src.mlops.cloud.service import describe, open_revisions
from src.mlops.config import CloudConfig, Config
from src.mlops.modelfile.store import STAGES

logger = logging.getLogger("src.mlops.cloud.bootstrap")
SERVICES = (
    "aiplatform",
    "artifactregistry",
    "billingbudgets",
    "cloudbilling",
    "cloudbuild",
    "cloudresourcemanager",
    "cloudscheduler",
    "iam",
    "iamcredentials",
    "logging",
    "monitoring",
    "run",
    "secretmanager",
    "storage",
    "sts",
)
NO_SECRET = "none"  # noqa: S105 - placeholder until a key is added


def bootstrap(cloud: CloudConfig) -> None:
    """Creates all resources for training and serving, and sets who can use them. Nothing is deleted.

    Raises:
        CloudError: A step failed. Fix the cause and run the command again; completed steps are skipped.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    gcloud.login()
    gcloud.run("enable the services", "services", "enable", *(f"{name}.googleapis.com" for name in SERVICES))
    for role, purpose in ACCOUNTS.items():
        name = names.account(role)
        gcloud.ensure(
            f"create the account {name.partition('@')[0]}",
            ("iam", "service-accounts", "describe", name),
            ("iam", "service-accounts", "create", name.partition("@")[0], f"--description={purpose}"),
        )
    _buckets(gcloud, names)
    _images(gcloud, names)
    _wandb_key(gcloud, names)
    grant_project(gcloud, names)
    for stage in STAGES:
        _service(gcloud, names, stage)
    _public(gcloud, names)
    schedule_job(gcloud, names)
    trust_workflows(gcloud, names)
    _budget(gcloud, names)


def _buckets(gcloud: Gcloud, names: Names) -> None:
    buckets = ("storage", "buckets")
    for url, settings, rules in (
        (names.bucket, "--versioning", "lifecycle.json"),
        (names.builds, "--no-versioning", "lifecycle-builds.json"),
    ):
        gcloud.ensure(
            f"create the bucket {url}",
            (*buckets, "describe", url),
            (
                *(*buckets, "create", url, f"--location={names.cloud.region}"),
                *("--uniform-bucket-level-access", "--public-access-prevention"),
            ),
        )
        gcloud.run(
            f"set versioning and lifecycle of {url}",
            *(*buckets, "update", url, settings, f"--lifecycle-file={TEMPLATES / rules}"),
        )
    grant_folders(gcloud, names)
    gcloud.run(
        "grant build access to the bucket for builds",
        *(*buckets, "add-iam-policy-binding", names.builds, *member(names, *BUILDS_ROLE)),
    )


def _images(gcloud: Gcloud, names: Names) -> None:
    repositories, place = ("artifacts", "repositories"), f"--location={names.cloud.region}"
    for name, tags in ((names.cloud.name, "--immutable-tags"), (names.cache, "--no-immutable-tags")):
        gcloud.ensure(
            f"create the repository {name} for container images",
            (*repositories, "describe", name, place),
            (*repositories, "create", name, place, "--repository-format=docker"),
        )
        gcloud.run(f"set whether tags can move in {name}", *(*repositories, "update", name, place, tags))
        gcloud.run(
            f"set the cleanup policy of {name}",
            *(*repositories, "set-cleanup-policies", name, place),
            *(f"--policy={TEMPLATES / 'cleanup.json'}", "--no-dry-run"),
        )
        for role, right in REGISTRY_ROLES:
            gcloud.run(
                f"grant {role} access to the container images in {name}",
                *(*repositories, "add-iam-policy-binding", name, place, *member(names, role, right)),
            )


def _wandb_key(gcloud: Gcloud, names: Names) -> None:
    # Cloud Build does not start if a secret in cloudbuild.yaml has no version.
    _secret(gcloud, SECRET, NO_SECRET)
    grant_secret(gcloud, names, SECRET, WANDB_ROLES)


def _secret(gcloud: Gcloud, name: str, content: str) -> None:
    """Creates a secret. A secret that already has a version keeps it."""
    if not gcloud.exists(f"find the secret {name}", "secrets", "describe", name):
        gcloud.run(f"create the secret {name}", "secrets", "create", name, "--replication-policy=automatic")
    versions = ("secrets", "versions")
    if not gcloud.exists(f"find a version of the secret {name}", *versions, "describe", "latest", f"--secret={name}"):
        gcloud.run(f"add a version to the secret {name}", *versions, "add", name, "--data-file=-", stdin=content)


def _service(gcloud: Gcloud, names: Names, stage: str) -> None:
    """Creates the service of a stage with a page of Google, so that its policy can be set before the first deployment.

    The account that deploys may change the service, but not its policy. A first deployment whose check fails leaves
    the traffic at this page.
    """
    service, region = names.service_in(stage), f"--region={names.cloud.region}"
    services = ("run", "services")
    if not gcloud.exists(f"find the service {service}", *services, "describe", service, region):
        file = render(
            "placeholder.yaml", names.cloud, service=service, revision=f"{service}-{PLACEHOLDER}",
            account=names.account("serve"),
        )  # fmt: skip
        gcloud.run(f"create the service {service}", *services, "replace", str(file), region)
    gcloud.run(
        f"allow build to call {service}",
        *(*services, "add-iam-policy-binding", service, region, *member(names, "build", INVOKE)),
    )


def _public(gcloud: Gcloud, names: Names) -> None:
    """Opens the service to everyone who sends an API key, or closes it again.

    It stays closed while a revision that asks for no key can be reached.
    """
    services, service = ("run", "services"), names.service_in("production")
    everyone = (f"--region={names.cloud.region}", "--member=allUsers", f"--role={INVOKE}")
    close = (*services, "remove-iam-policy-binding", service, *everyone)
    if not names.cloud.serve.public:
        gcloud.remove("close the service", *close)
        return
    for name in (names.api_keys, names.admin_token):
        _secret(gcloud, name, secrets.token_urlsafe(32))
    grant_secret(gcloud, names, names.api_keys, (("serve", READ_SECRET), ("build", READ_SECRET)))
    grant_secret(gcloud, names, names.admin_token, (("serve", READ_SECRET),))
    production = names.in_stage("production")
    state = describe(gcloud, production)
    if keyless := open_revisions(gcloud, production) & {*state.shares, *state.tagged.values()}:
        gcloud.remove("close the service", *close)
        logger.warning(
            "%s stays closed, because %s asks for no API key. Run `inv gcp.deploy`, then this command again",
            service,
            ", ".join(sorted(keyless)),
        )
        return
    gcloud.run("make the service public", *services, "add-iam-policy-binding", service, *everyone)


def _budget(gcloud: Gcloud, names: Names) -> None:
    account = gcloud.run(
        "find the billing account",
        *("billing", "projects", "describe", names.cloud.project, "--format=value(billingAccountName)"),
    ).removeprefix("billingAccounts/")
    budgets, title = ("billing", "budgets"), names.cloud.name
    which = f"--billing-account={account or 'ACCOUNT'}"
    there = gcloud.run(
        "find the budget", *budgets, "list", which, f"--filter=displayName={title}", "--format=value(name)"
    )
    if not there:
        gcloud.run(
            "create the budget",
            *(*budgets, "create", which, f"--display-name={title}", f"--budget-amount={names.cloud.budget}"),
            f"--filter-projects=projects/{names.cloud.project}",
            *(f"--threshold-rule=percent={percent}" for percent in (0.5, 0.9, 1.0)),
        )


def main(config: Config) -> None:
    """Runs `bootstrap` from the command line."""
    bootstrap(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
