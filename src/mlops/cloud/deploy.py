"""Deploys to Cloud Run without downtime: `python -m src.mlops.cloud.deploy`, or `inv gcp.deploy`.

A new revision starts next to the current one and gets no traffic until it passes a smoke test. In production it then
gets a part of the traffic and is compared with the current revision (`canary.py`). If a step fails, the current
revision continues to serve. A rollback in the meantime has precedence.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from src.mlops.cli import hydra_main
from src.mlops.cloud.canary import Compare, compare
from src.mlops.cloud.drift_job import update_job
from src.mlops.cloud.gcloud import Gcloud, capitalised
from src.mlops.cloud.identity import request_headers
from src.mlops.cloud.images import pinned_image
from src.mlops.cloud.names import PORT, PREVIOUS, Names, fill, write
from src.mlops.cloud.promoted import model_to_serve
from src.mlops.cloud.service import (
    API_KEYS,
    CANDIDATE,
    CURRENT,
    State,
    describe,
    open_revisions,
    require_unchanged,
    shift,
)
from src.mlops.cloud.smoke_test import smoke
from src.mlops.config import CloudConfig, Config
from src.mlops.errors import CloudError, MlopsError

logger = logging.getLogger("src.mlops.cloud.deploy")
Ask = Callable[[str, Mapping[str, str]], object]


def deploy(cloud: CloudConfig, ask: Ask = smoke, comparison: Compare = compare) -> None:
    """Starts a container image with a model as a new revision, tests it, and moves the traffic to it.

    Args:
        cloud: Section `cloud` of the configuration.
        ask: Smoke test of the service at an address with headers. Raises an error if the service does not work.
        comparison: Compares the new revision with the current one. Raises an error if it is worse.

    Raises:
        CloudError: A step failed, or the new revision is worse than the current one, which serves.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    gcloud.login()
    image, model = pinned_image(gcloud, names, "api"), model_to_serve(gcloud, names)
    drift_image = pinned_image(gcloud, names, "drift") if names.log else ""
    former = describe(gcloud, names)
    _start(gcloud, names, former, image, model)
    state = describe(gcloud, names)
    new = state.created
    shares = {former.serving: 100}
    try:
        headers = request_headers(gcloud, names, state.url)
        _test(gcloud, ask, state.addresses.get(CANDIDATE, state.url), headers, "test the new revision")
        if cloud.serve.stage == "production" and cloud.canary.share and not former.is_new:
            require_unchanged(gcloud, names, shares)
            shares = {former.serving: 100 - cloud.canary.share, new: cloud.canary.share}
            tags = {CANDIDATE: new, CURRENT: former.serving, **_previous(former)}
            shift(gcloud, names, f"give the new revision {cloud.canary.share} % of the traffic", shares, tags)
            _compare(gcloud, comparison, state, headers)
        require_unchanged(gcloud, names, shares)
        # The placeholder is nothing to return to, and everyone could call a revision without keys by its tag.
        has_no_use = former.is_new or (names.public and former.serving in open_revisions(gcloud, names))
        shift(gcloud, names, "move the traffic to the new revision", {new: 100},
              {} if has_no_use else {PREVIOUS: former.serving})  # fmt: skip
        _test(gcloud, ask, state.url, headers, "test the service")
    except MlopsError as error:
        if gcloud.dry_run:
            raise
        if not describe(gcloud, names).shares.keys() <= {former.serving, new}:
            raise CloudError(
                f"{error} The traffic stays where it is: another command moved it during the deployment."
            ) from error
        shift(gcloud, names, "roll back", {former.serving: 100}, _previous(former))
        raise CloudError(f"{error} Rolled back to {former.serving}.") from error
    if drift_image:
        # Otherwise it would compare records of the new model with the baseline of the previous one.
        update_job(gcloud, names, drift_image, model)
    logger.info("Deployed %s with the model %s at %s", image, model, state.url)


def _previous(state: State) -> dict[str, str]:
    return {PREVIOUS: state.tagged[PREVIOUS]} if PREVIOUS in state.tagged else {}


def _start(gcloud: Gcloud, names: Names, former: State, image: str, model: str) -> None:
    """Starts a revision without traffic, with its own address."""
    settings = names.cloud.serve
    traffic = [
        {"revisionName": former.serving, "percent": 100, "tag": CURRENT},
        {"latestRevision": True, "percent": 0, "tag": CANDIDATE},
        *({"revisionName": revision, "percent": 0, "tag": tag} for tag, revision in _previous(former).items()),
    ]
    service = fill(
        "service.yaml",
        names.cloud,
        service=names.service,
        image=image,
        after=former.created,
        account=names.account("serve"),
        environment=_environment(names, model),
        port=PORT,
        throttling=str(not settings.cpu_always).lower(),
        cpu=str(settings.cpu),
        min_instances=str(settings.min_instances),
        max_instances=str(settings.max_instances),
        traffic=traffic,
    )
    if not names.metrics:
        del service["spec"]["template"]["spec"]["containers"][1]
        del service["spec"]["template"]["metadata"]["annotations"]["run.googleapis.com/container-dependencies"]
    file = write("service", service)
    gcloud.run("start the new revision", "run", "services", "replace", str(file), f"--region={names.cloud.region}")


def _environment(names: Names, model: str) -> list[dict[str, Any]]:
    """Returns the environment variables of the service. Secrets are only named; Cloud Run reads them."""
    values = {
        "MLOPS_PORT": str(PORT),
        "MLOPS_MODEL": model,
        "MLOPS_MODEL_STORE": names.cloud.models,  # location of models such as models:/gtsrb@v3
        "MLOPS_LOG_URL": names.log,  # empty: predictions are not recorded
        "MLOPS_LOG_FORMAT": "json",  # Cloud Logging parses the JSON fields
    }
    secrets = {API_KEYS: names.api_keys, "MLOPS_ADMIN_TOKEN": names.admin_token} if names.public else {}
    return [
        *({"name": name, "value": value} for name, value in values.items()),
        *(
            {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": "latest"}}}
            for name, secret in secrets.items()
        ),
    ]


def _test(gcloud: Gcloud, ask: Ask, address: str, headers: Mapping[str, str], step: str) -> None:
    if gcloud.dry_run:
        return
    logger.info("%s", capitalised(step))
    try:
        ask(address, headers)
    except MlopsError as error:
        raise CloudError(f"Step {step!r} failed: {error}") from error


def _compare(gcloud: Gcloud, comparison: Compare, state: State, headers: Mapping[str, str]) -> None:
    if gcloud.dry_run:
        return
    step = "compare the new revision with the current one"
    logger.info("%s", capitalised(step))
    try:
        comparison(state.addresses[CANDIDATE], state.addresses[CURRENT], headers, gcloud.cloud.canary)
    except MlopsError as error:
        raise CloudError(f"Step {step!r} failed: {error}") from error


def main(config: Config) -> None:
    """Runs `deploy` from the command line."""
    deploy(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
