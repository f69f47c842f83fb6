"""Moves the traffic to an earlier revision: `python -m src.mlops.cloud.rollback`, or `inv gcp.rollback`.

The revision exists and has its own model, so nothing is built, loaded or measured before the traffic moves.
"""

import logging

from src.mlops.cli import hydra_main
from src.mlops.cloud.deploy import Ask
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.identity import request_headers
from src.mlops.cloud.names import PREVIOUS, Names
from src.mlops.cloud.promoted import model_to_serve
from src.mlops.cloud.service import State, describe, models_of_revisions, require_deployed, shift
from src.mlops.cloud.smoke_test import smoke
from src.mlops.config import CloudConfig, Config
from src.mlops.errors import CloudError, MlopsError

logger = logging.getLogger("src.mlops.cloud.rollback")


def rollback(cloud: CloudConfig, ask: Ask = smoke) -> None:
    """Moves all traffic to an earlier revision, and tests the service afterwards.

    That is the newest revision with the version that the stage has now, so `inv registry.rollback` comes first; with
    `cloud.serve.model=previous`, it is the revision that served before the last deployment, whatever its model is.

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
    target = _previous(names, state) if cloud.serve.model == PREVIOUS else _with_model(gcloud, names, state)
    # Also ends a comparison: a new revision that gets a part of the traffic loses it.
    shift(gcloud, names, f"move the traffic to {target}", {target: 100}, {})
    logger.info("All traffic goes to %s; before, most of it went to %s", target, state.serving)
    headers = request_headers(gcloud, names, state.url)
    if gcloud.dry_run:
        return
    try:
        ask(state.url, headers)
    except MlopsError as error:
        raise CloudError(f"The traffic is at {target}, but the service does not work: {error}") from error


def _previous(names: Names, state: State) -> str:
    if PREVIOUS not in state.tagged:
        raise CloudError(
            f"No deployment to {names.service} came before that of {state.serving}. Deploy with `inv gcp.deploy`."
        )
    logger.warning("The next deployment serves the promoted version. Change it with `inv registry.rollback`")
    return state.tagged[PREVIOUS]


def _with_model(gcloud: Gcloud, names: Names, state: State) -> str:
    try:
        wanted = model_to_serve(gcloud, names)
    except MlopsError as error:
        raise CloudError(
            f"{error} To return to the revision that served before the last deployment, without the registry, use "
            f"cloud.serve.model={PREVIOUS}."
        ) from error
    models = models_of_revisions(gcloud, names)
    if gcloud.dry_run or models.get(state.serving) == wanted:
        return state.serving
    found = [revision for revision, model in models.items() if model == wanted]
    if not found:
        raise CloudError(
            f"{names.service} has no revision with {wanted}; its revisions have "
            f"{', '.join(dict.fromkeys(models.values()))}. Deploy the version with `inv gcp.deploy`."
        )
    # The newest one may have failed its check, while the one that served before had passed it.
    previous = state.tagged.get(PREVIOUS, "")
    return previous if previous in found else found[0]


def main(config: Config) -> None:
    """Runs `rollback` from the command line."""
    rollback(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
