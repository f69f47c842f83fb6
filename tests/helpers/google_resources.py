"""The resources of the `gcloud` double that have a behaviour of their own. Code in them runs with its own account."""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.google_iam import DeniedError, State, require

_JOBS = "projects/123456/locations/europe-west4/customJobs"


def artifacts(state: State, account: str, command: str, name: str, options: dict[str, str]) -> str:
    """Describes a container image, or lists the newest."""
    repository = f"repositories/{name.split('/')[2]}"
    images: dict[str, str] = state.get("images", {})
    if command.endswith("list"):
        require(state, account, "artifactregistry.dockerimages.list", repository)
        if "filter" not in options:
            return "sha256:provenance"  # a part of the newest image, which has no tag
        wanted = re.compile(options["filter"].removeprefix("tags~"))
        tags = ((address.rpartition(":"), digest) for address, digest in reversed(images.items()))
        return next((digest for (base, _, tag), digest in tags if base == name and wanted.search(tag)), "")
    require(state, account, "artifactregistry.tags.get", repository)
    require(state, account, "artifactregistry.versions.get", repository)
    if name not in images:
        raise DeniedError("Image not found.")
    return "" if options["format"] == "none" else images[name]


def secret_versions(state: State, account: str, command: str, name: str, options: dict[str, str]) -> str:
    """Adds, describes or reads a version of a secret."""
    verb = command.rpartition(" ")[2]
    secret = options.get("secret", name)
    require(state, account, f"secretmanager.versions.{ {'describe': 'get'}.get(verb, verb) }", f"secrets/{secret}")
    values: dict[str, str] = state.setdefault("secrets", {})
    if verb == "add":
        values[secret] = options["stdin"]
    elif secret not in values:
        raise DeniedError("NOT_FOUND: Secret Version was not found")
    return values[secret] if verb == "access" else ""


def build(state: State, account: str, _: str, __: str, options: dict[str, str]) -> str:
    """Uploads the source, and runs the steps of cloudbuild.yaml as the account of the build."""
    bucket = options["gcs-source-staging-dir"].removeprefix("gs://").partition("/")[0]
    place = f"buckets/{bucket}"
    require(state, account, "storage.buckets.get", place)
    require(state, account, "storage.objects.create", place, "source/1.tgz")
    require(state, account, "serviceusage.services.use", "project")
    require(state, account, "cloudbuild.builds.create", "project")
    require(state, account, "cloudbuild.builds.get", "project")
    robot = options["service-account"].rpartition("/")[2]
    require(state, account, "iam.serviceAccounts.actAs", f"serviceAccounts/{robot}")
    require(state, account, "storage.objects.get", place, "log/log-1.txt")
    values = dict(entry.split("=", 1) for entry in options["substitutions"].removeprefix("^|^").split("|"))
    try:
        require(state, robot, "storage.objects.get", place, "source/1.tgz")
        require(state, robot, "storage.objects.create", place, "log/log-1.txt")
        require(state, robot, "secretmanager.versions.access", "secrets/wandb-api-key")
        for address in (values["_IMAGES"], values["_CACHE"]):
            require(
                state, robot, "artifactregistry.repositories.uploadArtifacts", f"repositories/{address.split('/')[2]}"
            )
    except DeniedError as error:
        raise DeniedError(f"build 1 completed with status 'FAILURE': {error}") from error
    for kind in ("api", "train", "drift"):
        images: dict[str, str] = state.setdefault("images", {})
        images.setdefault(f"{values['_IMAGES']}/{kind}:{values['_TAG']}", f"sha256:{len(images):064x}")
    return "the log of the build"


def jobs(state: State, account: str, command: str, name: str, options: dict[str, str]) -> str:
    """Simulates the training jobs of Vertex AI, which accepts any number of jobs with one display name.

    `state["jobs"]` has the jobs, oldest first; `state["job_state"]` is the state of new ones. A new job uses its data
    at once, as its own account.
    """
    verb = command.rpartition(" ")[2]
    require(state, account, f"aiplatform.customJobs.{ {'describe': 'get'}.get(verb, verb) }", "project")
    known: list[dict[str, Any]] = state.setdefault("jobs", [])
    if verb == "create":
        known.append(_new_job(state, account, options) | {"name": f"{_JOBS}/{77 + len(known)}"})
        return str(known[-1]["name"])
    if verb == "list":
        wanted = options["filter"].removeprefix("displayName=").lower()  # the filters of gcloud ignore case
        return json.dumps([job for job in reversed(known) if job["displayName"].lower() == wanted])
    job = next((job for job in known if job["name"].endswith(f"/{name}")), None)
    if job is None:
        raise DeniedError(f"NOT_FOUND: the job {name} does not exist")
    if verb == "cancel":
        job["state"] = "JOB_STATE_CANCELLED"
    return f"{job['state']}\t{job.get('error', {}).get('message', '')}"


def _new_job(state: State, account: str, options: dict[str, str]) -> dict[str, Any]:
    described = yaml.safe_load(Path(options["config"]).read_text())
    robot, output = described["serviceAccount"], described["baseOutputDirectory"]["outputUriPrefix"]
    require(state, account, "iam.serviceAccounts.actAs", f"serviceAccounts/{robot}")
    bucket, _, folder = output.removeprefix("gs://").partition("/")
    job = {"displayName": options["display-name"], "state": state.get("job_state", "JOB_STATE_SUCCEEDED")}
    place = f"buckets/{bucket}"
    try:
        require(state, robot, "artifactregistry.repositories.downloadArtifacts", "repositories/gtsrb")
        require(state, robot, "logging.logEntries.create", "project")
        require(state, robot, "secretmanager.versions.access", "secrets/wandb-api-key")
        require(state, robot, "storage.objects.list", place, "gtsrb/dvc/data/raw/archives/*")
        require(state, robot, "storage.objects.get", place, "gtsrb/dvc/data/raw/archives/train.zip")
        require(state, robot, "storage.objects.create", place, "gtsrb/data/processed/1/arrays.npz")
        require(state, robot, "storage.objects.create", place, f"{folder}/model/best_model.pth")
    except DeniedError as error:
        return job | {"state": "JOB_STATE_FAILED", "error": {"message": str(error)}}
    return job


def run_job(state: State, account: str, _: str, name: str, __: dict[str, str]) -> str:
    """Creates or changes a job of Cloud Run."""
    wanted = yaml.safe_load(Path(name).read_text())
    job = wanted["metadata"]["name"]
    there = ["run jobs", job] in state["things"]
    robot = wanted["spec"]["template"]["spec"]["template"]["spec"]["serviceAccountName"]
    require(state, account, "run.jobs.get", f"jobs/{job}")
    require(state, account, f"run.jobs.{'update' if there else 'create'}", f"jobs/{job}")
    require(state, account, "iam.serviceAccounts.actAs", f"serviceAccounts/{robot}")
    if not there:
        state["things"].append(["run jobs", job])
    return ""


def cloud_run(state: State, account: str, command: str, name: str, options: dict[str, str]) -> str:
    """Simulates Cloud Run services with their revisions and traffic."""
    services: dict[str, dict[str, Any]] = state.setdefault("services", {})
    if command == "run services replace":
        return _replace(state, account, services, yaml.safe_load(Path(name).read_text()))
    name = options.get("service", name)
    kind = "revisions" if "revisions" in command else "services"
    if command == "run services update-traffic":
        require(state, account, "run.services.get", f"services/{name}")
        require(state, account, "run.services.update", f"services/{name}")
    else:
        verb = command.rpartition(" ")[2]
        require(state, account, f"run.{kind}.{ {'describe': 'get'}.get(verb, verb) }", f"services/{name}")
    if name not in services:
        raise DeniedError(f"Cannot find service [{name}]")
    service = services[name]
    if command == "run services describe":
        return "" if options["format"] == "none" else json.dumps({"status": service["status"]})
    if command == "run services delete":
        del services[name]
        state.get("policies", {}).pop(f"services/{name}", None)
        return ""
    if command == "run revisions list":
        return json.dumps([_shown(revision) for revision in reversed(service["revisions"])])
    robot = service["revisions"][-1]["account"]
    require(state, account, "iam.serviceAccounts.actAs", f"serviceAccounts/{robot}")
    shares = dict(entry.split("=") for entry in options["to-revisions"].split(","))
    if sum(map(int, shares.values())) != 100:
        raise DeniedError("INVALID_ARGUMENT: The traffic must sum up to 100")
    tags = dict(entry.split("=") for entry in options.get("set-tags", "").split(",") if entry)
    traffic = [{"revisionName": revision, "percent": int(percent)} for revision, percent in shares.items()]
    traffic += [{"revisionName": revision, "tag": tag} for tag, revision in tags.items()]
    _set_traffic(name, service, traffic)
    return ""


def _replace(state: State, account: str, services: dict[str, dict[str, Any]], wanted: dict[str, Any]) -> str:
    name, template = wanted["metadata"]["name"], wanted["spec"]["template"]
    resource, robot = f"services/{name}", template["spec"]["serviceAccountName"]
    require(state, account, "run.services.get", resource)
    require(state, account, f"run.services.{'update' if name in services else 'create'}", resource)
    require(state, account, "iam.serviceAccounts.actAs", f"serviceAccounts/{robot}")
    service = services.setdefault(name, {"revisions": [], "status": {"url": f"https://{name}", "traffic": []}})
    containers = template["spec"]["containers"]
    _check_containers(template)
    revision = {
        "name": template["metadata"].get("name", f"{name}-r{len(service['revisions']) + 1}"),
        "account": robot,
        "containers": containers,
        "env": containers[0].get("env", []),
        "ready": True,
        "template": template,
    }
    if service["revisions"] and service["revisions"][-1]["template"] == template:
        revision = service["revisions"][-1]  # Cloud Run starts no new revision if nothing has changed
    else:
        service["revisions"].append(revision)
    service["status"]["latestCreatedRevisionName"] = revision["name"]
    try:
        _start(state, revision)
    except DeniedError as error:
        revision["ready"] = False
        raise DeniedError(f"Revision '{revision['name']}' is not ready and cannot serve traffic. {error}") from error
    traffic = wanted["spec"].get("traffic", [{"latestRevision": True, "percent": 100}])
    _set_traffic(
        name,
        service,
        [
            {
                "revisionName": revision["name"] if entry.get("latestRevision") else entry["revisionName"],
                **{key: entry[key] for key in ("percent", "tag") if entry.get(key)},
            }
            for entry in traffic
        ],
    )
    return ""


def _check_containers(template: dict[str, Any]) -> None:
    """Refuses containers that Cloud Run refuses: with a sidecar, exactly one has a port, and dependencies exist."""
    containers = template["spec"]["containers"]
    if len(containers) == 1:
        return
    if sum("ports" in container for container in containers) != 1:
        raise DeniedError("INVALID_ARGUMENT: Exactly one container must have a port")
    named = [container.get("name") for container in containers]
    order = json.loads(template["metadata"]["annotations"].get("run.googleapis.com/container-dependencies", "{}"))
    if (
        None in named
        or len(set(named)) < len(named)
        or not {*order, *(name for names in order.values() for name in names)} <= {*named}
    ):
        raise DeniedError(f"INVALID_ARGUMENT: The containers {named} do not fit the dependencies {order}")


def _start(state: State, revision: dict[str, Any]) -> None:
    """Starts the containers of a revision: Cloud Run reads its secrets, the service its model; a sidecar sends metrics.

    Like the real sidecar, it only logs an error if it cannot send them.
    """
    values = {entry["name"]: entry for entry in revision["env"]}
    for entry in values.values():
        if source := entry.get("valueFrom", {}).get("secretKeyRef"):
            try:
                require(state, revision["account"], "secretmanager.versions.access", f"secrets/{source['name']}")
            except DeniedError as error:
                raise DeniedError(
                    f"Permission denied on secret: projects/123456/secrets/{source['name']}/versions/latest for "
                    f"Revision service account {revision['account']}. The service account used must be granted the "
                    "'Secret Manager Secret Accessor' role (roles/secretmanager.secretAccessor) at the secret, project "
                    "or higher level."
                ) from error
    model = values.get("MLOPS_MODEL", {}).get("value", "")
    if model.startswith("models:/"):
        bucket, _, folder = values["MLOPS_MODEL_STORE"]["value"].removeprefix("gs://").partition("/")
        version = model.partition("@")[2]
        try:
            name = f"{folder}/versions/{version}/manifest.json"
            require(state, revision["account"], "storage.objects.get", f"buckets/{bucket}", name)
        except DeniedError as error:
            raise DeniedError(
                "The user-provided container failed the configured startup probe checks. Logs for this revision might "
                "contain more information."
            ) from error
    for sidecar in revision["containers"][1:]:
        assert "/cloud-run-gmp-sidecar:" in sidecar["image"]
        [port] = revision["containers"][0]["ports"]
        reads = port["containerPort"] == 8080 == int(values["MLOPS_PORT"]["value"])  # the default of the sidecar
        with suppress(DeniedError):
            require(state, revision["account"], "monitoring.timeSeries.create", "project")
            state.setdefault("metrics_of", []).extend([revision["name"]] if reads else [])


def _set_traffic(name: str, service: dict[str, Any], traffic: list[dict[str, Any]]) -> None:
    known = {revision["name"] for revision in service["revisions"]}
    for entry in traffic:
        if entry["revisionName"] not in known:
            raise DeniedError(f"INVALID_ARGUMENT: Revision {entry['revisionName']} does not exist")
        if "tag" in entry:
            entry["url"] = f"https://{entry['tag']}---{name}"
    service["status"]["traffic"] = traffic


def _shown(revision: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {"name": revision["name"]},
        "spec": {"containers": revision["containers"]},
        "status": {"conditions": [{"type": "Ready", "status": str(revision["ready"])}]},
    }


def answer(state: State, url: str, headers: dict[str, str]) -> dict[str, Any]:
    """Returns the revision that answers a request, which Cloud Run lets through like the real one.

    Raises:
        DeniedError: 403, the token is missing or of the wrong kind; 401, the API key is missing.
    """
    tag, _, name = url.removeprefix("https://").rpartition("---")
    service = state["services"][name]
    given = headers.get("Authorization", "").removeprefix("Bearer id-token-of-")
    account, _, audience = given.partition("-for-")
    if ["allUsers", "roles/run.invoker", None] not in state["policies"].get(f"services/{name}", []):
        if not given or (account != "me" and audience != f"https://{name}"):
            raise DeniedError("403: the token is missing or has another audience")
        require(state, "me@example.com" if account == "me" else account, "run.routes.invoke", f"services/{name}")
    traffic = service["status"]["traffic"]
    chosen = next(entry for entry in traffic if (entry.get("tag") == tag if tag else entry.get("percent")))
    revision: dict[str, Any] = next(one for one in service["revisions"] if one["name"] == chosen["revisionName"])
    keys = next((entry for entry in revision["env"] if entry["name"] == "MLOPS_API_KEYS"), None)
    if keys and headers.get("X-API-Key") != state["secrets"][keys["valueFrom"]["secretKeyRef"]["name"]]:
        raise DeniedError("401: the API key is missing")
    return revision
