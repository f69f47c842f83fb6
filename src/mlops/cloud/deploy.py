"""Deploys to Cloud Run without downtime: `python -m src.mlops.cloud.deploy`, or `inv gcp.deploy`.

A new revision starts next to the current one and gets no traffic until it passes a smoke test. If a step fails, the
current revision continues to serve.
"""

import json
import logging
from collections.abc import Callable
from typing import Any

from src.mlops.cli import hydra_main
from src.mlops.cloud.drift_job import update_job
from src.mlops.cloud.gcloud import Gcloud, capitalised
from src.mlops.cloud.names import Names, render
from src.mlops.cloud.smoke_test import smoke
from src.mlops.config import CloudConfig, Config
from src.mlops.errors import CloudError, MlopsError

logger = logging.getLogger("src.mlops.cloud.deploy")
CANDIDATE = "candidate"  # tag of a revision under test, which gives it a separate address
Ask = Callable[[str, str], object]


def deploy(cloud: CloudConfig, ask: Ask = smoke) -> None:
    """Starts the container image of the checked-out commit, tests it, and moves the traffic to it.

    Args:
        cloud: Section `cloud` of the configuration.
        ask: Smoke test of the service at an address with an identity token, which may be empty. Raises an error if the
            service does not work.

    Raises:
        CloudError: A step failed. The previous revision serves.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    gcloud.login()
    gcloud.require_image(names.image("api"))
    if cloud.prediction_log:
        gcloud.require_image(names.image("drift"))
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
        _ask(gcloud, ask, state, _address(state), "test the new revision")
        if former:
            _shift(gcloud, names, state["status"]["latestCreatedRevisionName"], "move the traffic to the new revision")
            _ask(gcloud, ask, state, state["status"]["url"], "test the service")
    except MlopsError as error:
        if not former or gcloud.dry_run:
            raise
        _shift(gcloud, names, former, "roll back")
        raise CloudError(f"{error} Rolled back to {former}.") from error
    if cloud.prediction_log:
        update_job(gcloud, names)  # or it would compare records of the new model with the baseline of the previous one
    logger.info("Deployed %s at %s", names.image("api"), state["status"]["url"])


def _describe(gcloud: Gcloud, names: Names) -> dict[str, Any]:
    """Returns the state of the service; an empty dict if it does not exist."""
    words = ("run", "services", "describe", names.cloud.name, f"--region={names.cloud.region}")
    if not gcloud.exists("find the service", *words):
        return {}
    state: dict[str, Any] = json.loads(gcloud.run("describe the service", *words, "--format=json"))
    return state


def _serving(state: dict[str, Any]) -> str:
    """Returns the revision with the most traffic; an empty string if there is none."""
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
        log=names.cloud.prediction_log or "",
        cpu=str(settings.cpu),
        min_instances=str(settings.min_instances),
        max_instances=str(settings.max_instances),
        traffic=traffic,
    )
    gcloud.run("start the new revision", "run", "services", "replace", str(service), f"--region={names.cloud.region}")


def _make_public(gcloud: Gcloud, names: Names) -> None:
    gcloud.run(
        "make the service public",
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
    logger.info("%s", capitalised(step))
    try:
        ask(address, token)
    except MlopsError as error:
        raise CloudError(f"Step {step!r} failed: {error}") from error


def main(config: Config) -> None:
    """Runs `deploy` from the command line."""
    deploy(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
