"""Tests, builds and deploys the working copy in Cloud Build: `python -m src.mlops.cloud.build`, or `inv gcp.build`."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from src.mlops import ROOT
from src.mlops.cli import hydra_main
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import Names
from src.mlops.config import CloudConfig, Config
from src.mlops.io.files import to_json
from src.mlops.io.git import source_commit

_LOCAL_SETTINGS = {"build", "dry_run", "github", "teardown"}  # settings that the steps of a build do not need


def build(cloud: CloudConfig) -> None:
    """Uploads the working copy to Cloud Build and waits until all steps of `cloudbuild.yaml` have ended.

    Raises:
        CloudError: A step failed.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    gcloud.login()
    settings = cloud.model_dump(mode="json", exclude=_LOCAL_SETTINGS) | {"tag": names.tag}
    values = {
        "_IMAGES": names.images,
        "_TAG": names.tag,
        "_COMMIT": source_commit() or "",
        "_TRAIN": str(cloud.build.train).lower(),
        "_DEPLOY": str(cloud.build.deploy).lower(),
        "_OPTIONS": shlex.join(_overrides("cloud", settings)),
    }
    gcloud.run(
        "test, build and deploy in Cloud Build",
        *("builds", "submit", str(ROOT), f"--config={ROOT / 'cloudbuild.yaml'}", f"--region={cloud.region}"),
        # `^|^` sets | as the separator, because values may contain commas.
        f"--substitutions=^|^{'|'.join(f'{name}={value}' for name, value in values.items())}",
        f"--service-account=projects/{cloud.project}/serviceAccounts/{names.account('build')}",
        f"--gcs-source-staging-dir={names.bucket}/builds",
    )


def _overrides(key: str, value: Any) -> Iterator[str]:
    """Yields settings as overrides. Hydra accepts strings, numbers, lists and null in JSON syntax."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _overrides(f"{key}.{name}", part)
    else:
        yield f"{key}={to_json(value, separators=(',', ':'))}"


def main(config: Config) -> None:
    """Runs `build` from the command line."""
    build(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
