"""Has Cloud Build test, build and deploy the working copy: `python -m src.mlops.cloud.build`, or `inv gcp-build`."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from src.mlops import ROOT
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import Names
from src.mlops.config import CloudConfig, Config, hydra_main
from src.mlops.source import source_commit

_HERE = {"build", "dry_run", "github", "teardown"}  # settings that no step of a build looks at


def build(cloud: CloudConfig) -> None:
    """Sends the working copy to Cloud Build and waits for the end of `cloudbuild.yaml`.

    Raises:
        CloudError: A step failed.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    gcloud.login()
    settings = cloud.model_dump(mode="json", exclude=_HERE) | {"tag": names.tag}
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
        # `^|^` makes | stand between values, which may hold commas.
        f"--substitutions=^|^{'|'.join(f'{name}={value}' for name, value in values.items())}",
        f"--service-account=projects/{cloud.project}/serviceAccounts/{names.account('build')}",
        f"--gcs-source-staging-dir={names.bucket}/builds",
    )


def _overrides(key: str, value: Any) -> Iterator[str]:
    """Writes settings as overrides; Hydra reads JSON's texts, numbers, lists and null."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _overrides(f"{key}.{name}", part)
    else:
        yield f"{key}={json.dumps(value, separators=(',', ':'))}"


def main(config: Config) -> None:
    """Runs `build` from the command line."""
    build(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
