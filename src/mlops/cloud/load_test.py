"""Load-tests the deployed service: `python -m src.mlops.cloud.load_test`, or `inv gcp.loadtest`."""

from src.mlops.cli import hydra_main
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.identity import request_headers
from src.mlops.cloud.names import Names
from src.mlops.cloud.service import describe, require_deployed
from src.mlops.config import CloudConfig, Config
from src.mlops.serving.loadtest import load_test


def run_load_test(cloud: CloudConfig) -> None:
    """Sends requests to the service of the stage `cloud.serve.stage`.

    Raises:
        CloudError: Nothing is deployed, or a step failed.
        ServiceError: A request failed.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    gcloud.login()
    state = describe(gcloud, names)
    require_deployed(names, state)
    headers = request_headers(gcloud, names, state.url)
    if not gcloud.dry_run:
        load_test(state.url, cloud.load.users, cloud.load.seconds, headers=headers)


def main(config: Config) -> None:
    """Runs `run_load_test` from the command line."""
    run_load_test(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
