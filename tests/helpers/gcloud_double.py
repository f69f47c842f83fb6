"""Test double of the command `gcloud`: keeps resources and policies, refuses what Google refuses, fails as scripted.

Calls, state and script are files in one folder: `calls.jsonl`, `state.json` and `script.json`. Which permissions a
command needs follows from the methods of the API that it calls, as far as the code of gcloud or the map of methods in
github.com/iann0036/iam-dataset shows them. Not verified: the permissions of `artifacts docker images list`, that
`run services update-traffic` needs `actAs`, and `serviceusage.services.use` of `builds submit` (from gcloud's own error
message).
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from tests.helpers.google_iam import OWNER, DeniedError, State, bind, require
from tests.helpers.google_monitoring import monitoring
from tests.helpers.google_resources import artifacts, build, cloud_run, jobs, run_job, secret_versions

ANSWERS = {"projects describe": "123456", "billing projects describe": "billingAccounts/0A0A0A-0B0B0B-0C0C0C"}
# Group of commands → service that must be enabled.
SERVICES = {
    "projects": "cloudresourcemanager",
    "iam": "iam",
    "storage": "storage",
    "artifacts": "artifactregistry",
    "secrets": "secretmanager",
    "run": "run",
    "scheduler": "cloudscheduler",
    "ai": "aiplatform",
    "builds": "cloudbuild",
    "logging": "logging",
    "monitoring": "monitoring",
    "alpha monitoring": "monitoring",
    "billing projects": "cloudbilling",
    "billing budgets": "billingbudgets",
}
# Command → permissions on the project, or with a colon on the resource that the command names.
SIMPLE = {
    "services enable": ["serviceusage.services.enable"],
    "projects describe": ["resourcemanager.projects.get"],
    "billing projects describe": ["resourcemanager.projects.get"],
    "billing budgets list": ["billing.budgets.list"],
    "billing budgets create": ["billing.budgets.create"],
    "iam service-accounts describe": ["iam.serviceAccounts.get"],
    "iam service-accounts create": ["iam.serviceAccounts.create"],
    "iam service-accounts delete": ["iam.serviceAccounts.delete"],
    "iam workload-identity-pools describe": ["iam.googleapis.com/workloadIdentityPools.get"],
    "iam workload-identity-pools create": ["iam.googleapis.com/workloadIdentityPools.create"],
    "iam workload-identity-pools providers describe": ["iam.googleapis.com/workloadIdentityPoolProviders.get"],
    "iam workload-identity-pools providers create-oidc": ["iam.googleapis.com/workloadIdentityPoolProviders.create"],
    "iam workload-identity-pools providers update-oidc": ["iam.googleapis.com/workloadIdentityPoolProviders.update"],
    "storage buckets describe": [":storage.buckets.get"],
    "storage buckets create": ["storage.buckets.create"],
    "storage buckets update": [":storage.buckets.get", ":storage.buckets.update"],
    "storage rm": [":storage.objects.list", ":storage.objects.delete", ":storage.buckets.delete"],
    "artifacts repositories describe": [":artifactregistry.repositories.get"],
    "artifacts repositories create": ["artifactregistry.repositories.create"],
    "artifacts repositories update": [":artifactregistry.repositories.get", ":artifactregistry.repositories.update"],
    "artifacts repositories set-cleanup-policies": [":artifactregistry.repositories.update"],
    "artifacts repositories delete": [":artifactregistry.repositories.delete"],
    "secrets describe": [":secretmanager.secrets.get"],
    "secrets create": ["secretmanager.secrets.create"],
    "secrets delete": [":secretmanager.secrets.delete"],
    "run jobs describe": [":run.jobs.get"],
    "run jobs delete": [":run.jobs.delete"],
    "run jobs execute": [":run.jobs.run"],
    "scheduler jobs describe": ["cloudscheduler.jobs.get"],
    "scheduler jobs create": ["cloudscheduler.jobs.create", "robot iam.serviceAccounts.actAs"],
    "scheduler jobs update": ["cloudscheduler.jobs.update", "robot iam.serviceAccounts.actAs"],
    "scheduler jobs delete": ["cloudscheduler.jobs.delete"],
}
# Resource with a policy → prefix of its permissions, and of its name in the state.
POLICIES = {
    "projects": ("resourcemanager.projects", ""),
    "storage buckets": ("storage.buckets", "buckets/"),
    "artifacts repositories": ("artifactregistry.repositories", "repositories/"),
    "secrets": ("secretmanager.secrets", "secrets/"),
    "iam service-accounts": ("iam.serviceAccounts", "serviceAccounts/"),
    "run services": ("run.services", "services/"),
    "run jobs": ("run.jobs", "jobs/"),
}
Handler = Callable[[State, str, str, str, dict[str, str]], str]
HANDLERS: dict[str, Handler] = {
    "run services": cloud_run,
    "run revisions": cloud_run,
    "run jobs replace": run_job,
    "ai custom-jobs": jobs,
    "builds submit": build,
    "artifacts docker images": artifacts,
    "secrets versions": secret_versions,
    "logging metrics": monitoring,
    "monitoring": monitoring,
    "alpha monitoring": monitoring,
}
VERBS = re.compile(
    r"(add-iam-policy-binding|remove-iam-policy-binding|create-oidc|update-oidc|set-cleanup-policies|update-traffic"
    r"|execute|cancel|describe|create|delete|update|enable|list|list-configs|submit|replace|access|add|rm|print-identity-token)"
)


def main(arguments: list[str], folder: Path, stdin: str = "") -> int:
    """Answers one call on stdout and stderr, and returns the exit code."""
    line = " ".join(arguments)
    with (folder / "calls.jsonl").open("a") as file:
        file.write(json.dumps(arguments) + "\n")
    script = json.loads((folder / "script.json").read_text())
    state: State = json.loads((folder / "state.json").read_text())
    state.setdefault("things", [])
    code, fault = 0, next((one for one in script if re.search(one["match"], line) and one.get("times", 1) > 0), None)
    if fault:
        fault["times"] = fault.get("times", 1) - 1
        (folder / "script.json").write_text(json.dumps(script))
    if not fault or fault.get("acts"):  # with `acts`, the request succeeds, but its response is lost
        try:
            sys.stdout.write(act(arguments, state, stdin) + "\n")
        except DeniedError as error:
            sys.stderr.write(f"ERROR: (gcloud.{'.'.join(arguments[:2])}) {error}\n")
            code = 1
    (folder / "state.json").write_text(json.dumps(state))
    if fault:
        sys.stdout.write(fault.get("stdout", ""))
        sys.stderr.write(fault.get("stderr", ""))
        return int(fault.get("code", 1))
    return code


def act(arguments: list[str], state: State, stdin: str) -> str:
    """Executes a command as the account that is logged in, and returns its output."""
    words = [word for word in arguments if not word.startswith("--")]
    pairs = [word[2:].partition("=") for word in arguments if word.startswith("--")]
    options = {name: value for name, _, value in pairs} | {"stdin": stdin}
    account = state.get("account", OWNER)
    if words[:2] == ["auth", "list"]:
        return str(account)
    place = next(i for i, word in enumerate(words) if VERBS.fullmatch(word))
    kind, verb, name = " ".join(words[:place]), words[place], " ".join(words[place + 1 :])
    if kind == "auth":
        return identity_token(state, account, options)
    require_service(state, account, kind)
    if verb.endswith("iam-policy-binding"):
        return set_policy(state, account, kind, name, options, remove=verb.startswith("remove"))
    for start, handler in HANDLERS.items():
        if f"{kind} {verb}".startswith(start):
            return handler(state, account, f"{kind} {verb}", name, options)
    return simple(state, account, kind, verb, name, options)


def simple(state: State, account: str, kind: str, verb: str, name: str, options: dict[str, str]) -> str:
    """Creates, describes, changes or deletes a resource that has no behaviour of its own."""
    command = f"{kind} {verb}"
    resource = POLICIES.get(kind, ("", kind + "/"))[1] + name.removeprefix("gs://")
    if kind == "storage":
        kind, resource = "storage buckets", f"buckets/{name.removeprefix('gs://')}"
    name = name.removeprefix("http ")  # the kind of a schedule
    for permission in SIMPLE[command]:
        target = resource if permission[0] == ":" else "project"
        if permission.startswith("robot "):
            target = f"serviceAccounts/{options['oauth-service-account-email']}"
        require(state, account, permission.removeprefix(":").removeprefix("robot "), target)
    if command == "services enable":
        found = [word.removesuffix(".googleapis.com") for word in name.split()]
        state["enabled"] = [service for service in found if service != state.get("off")]
    if command in ANSWERS:
        return ANSWERS[command]
    things: list[list[str]] = state["things"]
    entry = [
        kind,
        f"{name}@{options['project']}.iam.gserviceaccount.com" if command.endswith("accounts create") else name,
    ]
    if command == "billing budgets list":
        return "budgets/1" if any(thing[0] == kind for thing in things) else ""
    if verb.startswith("create"):
        if entry in things:
            raise DeniedError("ALREADY_EXISTS: it already exists")
        things.append(entry)
    elif kind != "services" and entry not in things:
        raise DeniedError("NOT_FOUND: it was not found")
    if verb in ("create-oidc", "update-oidc"):
        kept = {key: value for key, value in state.get("provider", {}).items() if key != "disabled"}
        state["provider"] = kept | {key: value for key, value in options.items() if key != "no-disabled"}
    if verb in ("delete", "rm"):
        things.remove(entry)
        state.get("policies", {}).pop(resource, None)
    return ""


def set_policy(state: State, account: str, kind: str, name: str, options: dict[str, str], *, remove: bool) -> str:
    prefix, place = POLICIES[kind]
    resource = place + name.removeprefix("gs://") if place else "project"
    if place and [kind, name] not in state["things"] and name not in state.get("services", {}):
        raise DeniedError(f"NOT_FOUND: {name} was not found")
    require(state, account, f"{prefix}.getIamPolicy", resource)
    require(state, account, f"{prefix}.setIamPolicy", resource)
    bind(state, resource, options["member"], options["role"], options.get("condition"), remove=remove)
    return ""


def require_service(state: State, account: str, kind: str) -> None:
    """Refuses the request if the service is not enabled."""
    service = next((service for start, service in SERVICES.items() if kind.startswith(start)), None)
    if service and service not in state.get("enabled", []):
        raise DeniedError(disabled(service))


def disabled(service: str) -> str:
    return (
        f"PERMISSION_DENIED: {service.title()} API has not been used in project my-project before or it is disabled. "
        f"Enable it by visiting https://console.developers.google.com/apis/api/{service}.googleapis.com/overview?"
        "project=my-project then retry. If you enabled this API recently, wait a few minutes for the action to "
        "propagate to our systems and retry. reason: SERVICE_DISABLED"
    )


def identity_token(state: State, account: str, options: dict[str, str]) -> str:
    """Like `gcloud auth print-identity-token`, which asks for an access token of an account that it impersonates."""
    if target := options.get("impersonate-service-account"):
        require(state, account, "iam.serviceAccounts.getAccessToken", f"serviceAccounts/{target}")
        return id_token(state, account, target, options["audiences"])
    if account != OWNER:
        raise DeniedError("Invalid account type for `--audiences`. Requires valid service account.")
    return "id-token-of-me"


def id_token(state: State, account: str, target: str, audience: str) -> str:
    """Like the method generateIdToken of IAM Credentials."""
    if "iamcredentials" not in state.get("enabled", []):
        raise DeniedError(disabled("iamcredentials"))
    require(state, account, "iam.serviceAccounts.getOpenIdToken", f"serviceAccounts/{target}")
    return f"id-token-of-{target}-for-{audience}"
