"""Lets workflows of one GitHub repository act in the project without a key."""

from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import Names
from src.mlops.errors import CloudError

POOL = "github"
# Workflows of the main branch whose jobs can act as `build`, in one of these environments. The environment `production`
# should require a person's approval, see docs/how-to/ci.md.
WORKFLOWS = ("deploy.yaml", "rollout.yaml", "train.yaml", "retrain.yaml", "collect.yaml")
ENVIRONMENTS = ("staging", "production", "rollback", "training")
MEASURES = "rollout.yaml"  # workflow of the main branch whose other jobs can act as `measure`
ROLES = ("build", "measure", "report")
_ISSUER = "--issuer-uri=https://token.actions.githubusercontent.com"


def trust_workflows(gcloud: Gcloud, names: Names) -> None:
    """Sets which workflows can act as which account. Without `cloud.github`, none can.

    Raises:
        CloudError: `cloud.github_id` or `cloud.github_owner_id` is missing, or a step failed.
    """
    pools, pool = ("iam", "workload-identity-pools"), ("--location=global", f"--workload-identity-pool={POOL}")
    provider = (*pools, "providers")
    if not names.cloud.github:
        if gcloud.exists("find the identity provider", *provider, "describe", POOL, *pool):
            gcloud.run("exclude all workflows", *provider, "update-oidc", POOL, *pool, "--disabled")
        return
    trust = _trust(names)
    gcloud.ensure(
        "create the workload identity pool",
        (*pools, "describe", POOL, "--location=global"),
        (*pools, "create", POOL, "--location=global"),
    )
    if gcloud.exists("find the identity provider", *provider, "describe", POOL, *pool):
        gcloud.run(
            "update the identity provider", *provider, "update-oidc", POOL, *pool, _ISSUER, *trust, "--no-disabled"
        )
    else:
        gcloud.run("create the identity provider", *provider, "create-oidc", POOL, *pool, _ISSUER, *trust)
    number = gcloud.run(
        "find the number of the project", "projects", "describe", names.cloud.project, "--format=value(projectNumber)"
    )
    place = f"projects/{number or 'NUMBER'}/locations/global/workloadIdentityPools/{POOL}"
    for role in ROLES:
        gcloud.run(
            f"allow workflows to act as {role}",
            *("iam", "service-accounts", "add-iam-policy-binding", names.account(role)),
            f"--member=principalSet://iam.googleapis.com/{place}/attribute.role/{role}",
            "--role=roles/iam.workloadIdentityUser",
        )


def _trust(names: Names) -> tuple[str, str]:
    """Returns the options that decide which token of GitHub gets which role.

    Names of repositories and owners can be taken over after they were given up, so both are compared by number. A job
    can act as `build` only if its workflow file is that of the main branch and GitHub approved its environment; a tag
    or branch with another workflow file cannot.
    """
    cloud = names.cloud
    if not (cloud.github_id and cloud.github_owner_id):
        raise CloudError(
            f"cloud.github is {cloud.github}, but cloud.github_id or cloud.github_owner_id is missing. Show both with "
            f"`gh api repos/{cloud.github} --jq '.id, .owner.id'` and set them in configshydra/cloud/gcp.yaml."
        )
    file = f"{cloud.github}/.github/workflows/{{}}@refs/heads/main"
    files = ", ".join(f"'{file.format(name)}'" for name in WORKFLOWS)
    places = ", ".join(f"'{name}'" for name in ENVIRONMENTS)
    deploys = (
        f"has(assertion.environment) && assertion.environment in [{places}] && assertion.workflow_ref in [{files}]"
    )
    measures = f"assertion.workflow_ref == '{file.format(MEASURES)}'"
    role = f"{deploys} ? 'build' : {measures} ? 'measure' : 'report'"
    owner = f"assertion.repository_owner_id == '{cloud.github_owner_id}'"
    return (
        # `^~^` sets ~ as the separator, because the expressions contain commas.
        f"--attribute-mapping=^~^google.subject=assertion.sub~attribute.role={role}",
        f"--attribute-condition=assertion.repository_id == '{cloud.github_id}' && {owner}",
    )
