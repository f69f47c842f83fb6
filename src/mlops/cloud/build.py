"""Tests, builds and deploys the working copy in Cloud Build: `python -m src.mlops.cloud.build`, or `inv gcp.build`."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from src.mlops import ROOT
from src.mlops.cli import hydra_main
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import NEWEST, Names
from src.mlops.config import CloudConfig, Config
from src.mlops.errors import CloudError, GitError
from src.mlops.io.files import to_json
from src.mlops.io.git import git, source_commit

# Settings that the steps of a build do not need.
_LOCAL_SETTINGS = {"build", "dry_run", "github", "github_id", "github_owner_id", "load", "retrain", "teardown"}


def build(cloud: CloudConfig) -> None:
    """Uploads the working copy to Cloud Build, and shows the log until all steps of `cloudbuild.yaml` have ended.

    Raises:
        CloudError: Files differ from the commit that the container images are named after, or a step failed.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    gcloud.login()
    if not gcloud.dry_run:
        _require_own_name(gcloud, names)
    # A training takes hours, and Vertex AI ends it without this build.
    settings = cloud.model_copy(update={"train": cloud.train.model_copy(update={"action": "start"})})
    options = settings.model_dump(mode="json", exclude=_LOCAL_SETTINGS) | {"tag": names.tag}
    values = {
        "_IMAGES": names.images,
        "_CACHE": names.repository(names.cache),
        "_TAG": names.tag,
        "_COMMIT": source_commit() or "",
        "_TRAIN": str(cloud.build.train).lower(),
        "_DEPLOY": str(cloud.build.deploy).lower(),
        "_OPTIONS": shlex.join(_overrides("cloud", options)),
    }
    gcloud.run(
        "test, build and deploy in Cloud Build",
        *("builds", "submit", str(ROOT), f"--config={ROOT / 'cloudbuild.yaml'}", f"--region={cloud.region}"),
        # `^|^` sets | as the separator, because values may contain commas.
        f"--substitutions=^|^{'|'.join(f'{name}={value}' for name, value in values.items())}",
        f"--service-account=projects/{cloud.project}/serviceAccounts/{names.account('build')}",
        # A bucket of its own: the source can contain what must not be read by jobs that read data.
        f"--gcs-source-staging-dir={names.builds}/source",
        f"--gcs-log-dir={names.builds}/log",  # gcloud can only show a log that is in a bucket
        stream=True,
        attempts=1,  # the build may have started
    )


def _require_own_name(gcloud: Gcloud, names: Names) -> None:
    """Raises an error if the images would be named after a commit, or an earlier image, with other content."""
    advice = "choose a new name for the images such as cloud.tag=trial-1."
    if names.tag == NEWEST:
        raise CloudError(f"cloud.tag={NEWEST} names an image that was built before. Use another name, or the commit.")
    try:
        changed = git(ROOT, "status", "--porcelain")
        is_commit = not names.cloud.tag
    except GitError:
        changed, is_commit = "", False  # not a repository
    if not is_commit:
        # The build would keep this image, and deploy it instead of the working copy.
        if gcloud.exists("find the container image", "artifacts", "docker", "images", "describe", names.image("api")):
            raise CloudError(
                f"{names.image('api')} exists, and its tag cannot move. Deploy it with `inv gcp.deploy`, or {advice}"
            )
    elif changed:
        files = ", ".join(line.split(maxsplit=1)[1] for line in changed.splitlines()[:5])
        raise CloudError(
            f"There are uncommitted changes in {files}, so the commit does not name the content. Commit them, or "
            f"{advice}"
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
