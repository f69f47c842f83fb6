"""Moves the traffic back to an earlier revision: `python -m src.mlops.cloud.rollback`, or `inv gcp.rollback`.

The revision exists and has its own model, so nothing is built, loaded or measured before the traffic moves.
"""

import logging

from src.mlops.cli import hydra_main
from src.mlops.cloud.deploy import Ask
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.identity import request_headers
from src.mlops.cloud.names import Names
from src.mlops.cloud.promoted import model_to_serve
from src.mlops.cloud.service import PREVIOUS, State, describe, models_of_revisions, require_deployed, shift
from src.mlops.cloud.smoke_test import smoke
from src.mlops.config import CloudConfig, Config
from src.mlops.errors import CloudError, MlopsError

logger = logging.getLogger("src.mlops.cloud.rollback")


def rollback(cloud: CloudConfig, ask: Ask = smoke) -> None:
    """Moves all traffic to an earlier revision, and tests the service afterwards.

    After `inv registry.rollback`, that is the newest revision with the version that the stage has now; otherwise the
    revision that served before the last deployment. If the registry cannot be read, it is also that one.

    Args:
        cloud: Section `cloud` of the configuration.
        ask: Smoke test, as for `deploy`.

    Raises:
        CloudError: There is no such revision, a step failed, or the service does not work after the rollback.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    gcloud.login()
    state = describe(gcloud, names)
    require_deployed(names, state)
    target = _target(gcloud, names, state)
    shift(gcloud, names, f"move the traffic back to {target}", {target: 100}, {})
    logger.info("All traffic goes to %s instead of %s", target, state.serving)
    headers = request_headers(gcloud, names, state.url)
    if gcloud.dry_run:
        return
    try:
        ask(state.url, headers)
    except MlopsError as error:
        raise CloudError(f"The traffic is back at {target}, but the service does not work: {error}") from error


def _target(gcloud: Gcloud, names: Names, state: State) -> str:
    models = models_of_revisions(gcloud, names)
    previous, current = state.tagged.get(PREVIOUS, ""), models.get(state.serving)
    wanted = _wanted(gcloud, names) or current
    if gcloud.dry_run or (wanted == current and previous):
        if not gcloud.dry_run:
            logger.warning(
                "The next deployment serves %s again. Roll back the version as well with `inv registry.rollback`.",
                current,
            )
        return previous
    found = [revision for revision, model in models.items() if model == wanted and revision != state.serving]
    if not found:
        raise CloudError(
            f"{names.service} has no earlier revision with {wanted}; its revisions have "
            f"{', '.join(dict.fromkeys(models.values()))}. Deploy the version with `inv gcp.deploy`."
        )
    return previous if previous in found else found[0]


def _wanted(gcloud: Gcloud, names: Names) -> str:
    try:
        return model_to_serve(gcloud, names)
    except MlopsError as error:
        logger.warning("Returning to the previous revision, because the registry cannot be read: %s", error)
        return ""


def main(config: Config) -> None:
    """Runs `rollback` from the command line."""
    rollback(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
