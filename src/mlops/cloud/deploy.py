"""Deploys to Cloud Run without a gap: `python -m src.mlops.cloud.deploy`, or `inv gcp-deploy`.

A new revision starts beside the one that serves, and gets no traffic until it has answered. When anything fails, the
former one goes on serving.
"""

import json
import logging
from collections.abc import Callable
from typing import Any

from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import Names, render
from src.mlops.cloud.train import require_image
from src.mlops.config import CloudConfig, Config, hydra_main
from src.mlops.errors import CloudError, MlopsError
from src.mlops.smoke import smoke

logger = logging.getLogger("src.mlops.cloud.deploy")
CANDIDATE = "candidate"  # tag of a revision that is tried out: it has an address of its own
Ask = Callable[[str, str], object]


def deploy(cloud: CloudConfig, ask: Ask = smoke) -> None:
    """Starts the image of the checked-out commit, asks it, and gives it the traffic.

    Args:
        cloud: What to deploy.
        ask: Finds out whether the service at an address works, with an identity token or without; raises if not.

    Raises:
        CloudError: A step failed. The service is as it was before.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    gcloud.login()
    require_image(gcloud, names, "api")
    former = _serving(_describe(gcloud, names))
    traffic: list[dict[str, Any]] = [{"latestRevision": True, "percent": 100}]
    if former:
        traffic = [
            {"revisionName": former, "percent": 100},
            {"latestRevision": True, "percent": 0, "tag": CANDIDATE},
        ]
    _replace(gcloud, names, traffic)
    state = _describe(gcloud, names)
    if cloud.serve.public:
        _make_public(gcloud, names)
    if gcloud.dry_run:
        former, state = "FORMER", {"status": {"url": "URL", "latestCreatedRevisionName": "NEW"}}
    try:
        _ask(gcloud, ask, state, _address(state), "ask the new revision")
        if former:
            _shift(gcloud, names, state["status"]["latestCreatedRevisionName"], "give the new revision the traffic")
            _ask(gcloud, ask, state, state["status"]["url"], "ask the service")
    except MlopsError as error:
        if not former or gcloud.dry_run:
            raise
        _shift(gcloud, names, former, "roll back")
        raise CloudError(f"{error} Rolled back: {former} serves.") from error
    _drift(gcloud, names)
    logger.info("%s serves at %s", names.image("api"), state["status"]["url"])


def _describe(gcloud: Gcloud, names: Names) -> dict[str, Any]:
    """Returns the service's state; nothing where there is none yet."""
    words = ("run", "services", "describe", names.cloud.name, f"--region={names.cloud.region}")
    if not gcloud.exists("find the service", *words):
        return {}
    state: dict[str, Any] = json.loads(gcloud.run("look at the service", *words, "--format=json"))
    return state


def _serving(state: dict[str, Any]) -> str:
    """Returns the revision that has the most traffic."""
    shares = [entry for entry in state.get("status", {}).get("traffic", []) if entry.get("percent")]
    return str(max(shares, key=lambda entry: entry["percent"])["revisionName"]) if shares else ""


def _address(state: dict[str, Any]) -> str:
    tagged = [entry["url"] for entry in state["status"].get("traffic", []) if entry.get("tag") == CANDIDATE]
    return str(tagged[0] if tagged else state["status"]["url"])


def _replace(gcloud: Gcloud, names: Names, traffic: list[dict[str, Any]]) -> None:
    settings = names.cloud.serve
    service = render(
        "service.yaml",
        names.cloud,
        image=names.image("api"),
        account=names.account("serve"),
        cpu=str(settings.cpu),
        min_instances=str(settings.min_instances),
        max_instances=str(settings.max_instances),
        traffic=traffic,
    )
    gcloud.run("start the new revision", "run", "services", "replace", str(service), f"--region={names.cloud.region}")


def _make_public(gcloud: Gcloud, names: Names) -> None:
    gcloud.run(
        "let everyone ask the service",
        *("run", "services", "add-iam-policy-binding", names.cloud.name, f"--region={names.cloud.region}"),
        *("--member=allUsers", "--role=roles/run.invoker"),
    )


def _shift(gcloud: Gcloud, names: Names, revision: str, step: str) -> None:
    gcloud.run(
        step,
        *("run", "services", "update-traffic", names.cloud.name, f"--region={names.cloud.region}"),
        *(f"--to-revisions={revision}=100", f"--remove-tags={CANDIDATE}"),
    )


def _ask(gcloud: Gcloud, ask: Ask, state: dict[str, Any], address: str, step: str) -> None:
    public = gcloud.cloud.serve.public
    token = "" if public else gcloud.token("get a token for the service", state["status"]["url"])
    if gcloud.dry_run:
        return
    logger.info("%s", step)
    try:
        ask(address, token)
    except MlopsError as error:
        raise CloudError(f"step {step!r}: {error}") from error


def _drift(gcloud: Gcloud, names: Names) -> None:
    """Has drift looked for by schedule, where there is a command for it."""
    cloud = names.cloud
    if not cloud.drift.command:
        return
    job = render("drift-job.yaml", cloud, image=names.image("api"), job=names.drift_job, account=names.account("serve"))
    place = f"--region={cloud.region}"
    gcloud.run("renew the job that looks for drift", "run", "jobs", "replace", str(job), place)
    account = names.account("schedule")
    gcloud.run(
        "let schedule start it",
        *("run", "jobs", "add-iam-policy-binding", names.drift_job, place),
        *(f"--member=serviceAccount:{account}", "--role=roles/run.invoker"),
    )
    schedule = ("scheduler", "jobs")
    where = f"--location={cloud.region}"
    exists = gcloud.exists("find the schedule", *schedule, "describe", names.drift_job, where)
    gcloud.run(
        "look for drift by schedule",
        *(*schedule, "update" if exists else "create", "http", names.drift_job, where),
        f"--schedule={cloud.drift.schedule}",
        f"--uri=https://run.googleapis.com/v2/projects/{cloud.project}/locations/{cloud.region}/jobs/{names.drift_job}:run",
        *("--http-method=POST", f"--oauth-service-account-email={account}"),
    )


def main(config: Config) -> None:
    """Runs `deploy` from the command line."""
    deploy(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
