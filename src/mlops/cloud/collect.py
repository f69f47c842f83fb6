"""Registers the models of training jobs that have ended: `python -m src.mlops.cloud.collect`, or `inv gcp.collect`.

It handles jobs that were only started (`inv gcp.train --detach`), each once, and may run at any time: two runs at the
same time, or a run that was killed, never register a model twice. The model of a retraining also goes to staging if it
passes the gate.
"""

import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from src.mlops import ROOT
from src.mlops.cli import OverrideOption, new_app, typer_main
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.jobs import OUTCOME, SUMS, Request, failure, find_attempts, is_starting, read_outcome, read_request
from src.mlops.cloud.names import JOBS, Names
from src.mlops.cloud.submit import fetch_model
from src.mlops.config import Config, load_config
from src.mlops.errors import (
    BusyError,
    CheckpointError,
    CloudError,
    GateError,
    GitError,
    MlopsError,
    RegistryError,
)
from src.mlops.evaluation.evaluate import evaluate
from src.mlops.evaluation.robustness import robustness
from src.mlops.inference.classifier import Classifier
from src.mlops.io.files import sha256, to_json
from src.mlops.io.git import UNCOMMITTED, git
from src.mlops.io.storage import Storage, open_storage
from src.mlops.modelfile.store import FILES, SERVED, model_name
from src.mlops.registry.register import register, registered_as, require_ready
from src.mlops.registry.registry import promote, sync
from src.mlops.registry.stages import read_current
from src.mlops.registry.tags import REMOTE, version_tags
from src.mlops.training.job import OWN_DATA, fetch

app = new_app()
logger = logging.getLogger("src.mlops.cloud.collect")
STAGING = "staging"
_ABOUT_DATA = re.compile(r"[+~]*(data|experiment)\b")  # overrides that decide which images a model is evaluated on


@dataclass
class Collected:
    """The result of `collect`.

    Attributes:
        versions: The registered versions, such as `v3`.
        problems: An error message for each job that failed since the last call, or whose model cannot be registered or
            fails the gate.
    """

    versions: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def collect(overrides: Sequence[str], repository: Path = ROOT, *, push: bool = False) -> Collected:
    """Downloads, checks, evaluates and registers the models of jobs that have ended.

    A model is evaluated on the data of its job, and its version tags the commit of the training code. What became of a
    job is recorded in the bucket, so each job is registered, or its failure reported, once. If a model cannot be
    registered at the moment, the next call tries again. A model of a retraining (`cloud.train.collected`) also goes to
    staging, unless it fails the gate, which is a problem that is reported once.

    Args:
        overrides: Hydra overrides. By default, models are registered in the bucket (`registry=gcs`).
        repository: The Git repository.
        push: Whether to push the tags to the Git remote `origin`.

    Raises:
        RegistryError: The repository has uncommitted changes, or its tags cannot be fetched.
        CloudError: The command gcloud is missing or not logged in.
        StorageError: The bucket cannot be used.
    """
    config = load_config(["registry=gcs", *overrides])
    cloud = config.cloud
    gcloud, bucket = Gcloud(cloud), open_storage(f"{Names(cloud).bucket}/{JOBS}")
    require_ready(repository)
    if push:
        _fetch_tags(repository)
    gcloud.login()
    done = Collected()
    files = bucket.names()
    with tempfile.TemporaryDirectory(prefix="collect-") as work:
        for name in sorted({entry.partition("/")[0] for entry in files if entry.startswith(f"{cloud.name}-")}):
            job = open_storage(f"{bucket.url}/{name}")
            try:
                request = read_request(job)
                if request is None or not request.register or read_outcome(job).get("request") == request.id:
                    continue
                with _reported(job, name, request, done):
                    if f"{name}/model/{SUMS}" in files:
                        measured = _fetch(overrides, job.url, request, Path(work))
                        version = _register(measured, job.url, repository, push=push)
                        retrained = request.settings.get("collected") is not None
                        failed = _stage(measured, version, repository, push=push) if retrained else ""
                        facts = {"gate": failed} if failed else {}
                        _record(job, request, version=version, store=measured.registry.store, **facts)
                        done.versions.append(version)
                        done.problems += [f"{name}: {failed}"] if failed else []
                    else:
                        _require_alive(gcloud, job, name, request)
            except BusyError as error:
                logger.warning("%s The next call of this command tries again", error)
            except MlopsError as error:
                done.problems.append(f"{name}: {error}")
                logger.error("Cannot register the model of %s: %s The next call tries again", name, error)  # noqa: TRY400
    logger.info("Registered %d models; %d problems", len(done.versions), len(done.problems))
    return done


class _UnusableError(MlopsError):
    """A job will never give a model that can be registered."""


@contextmanager
def _reported(job: Storage, name: str, request: Request, done: Collected) -> Iterator[None]:
    """Reports that a job is of no use, and records it, so that it is not reported again."""
    try:
        yield
    except (_UnusableError, CheckpointError) as error:
        logger.error("%s", error)  # noqa: TRY400
        done.problems.append(f"{name}: {error}")
        _record(job, request, problem=str(error))


def _record(job: Storage, request: Request, **facts: str) -> None:
    job.write(OUTCOME, (to_json({"request": request.id, **facts}, indent=2) + "\n").encode())


def _require_alive(gcloud: Gcloud, job: Storage, name: str, request: Request) -> None:
    """Checks that a job without a model may still give one."""
    attempts = [attempt for attempt in find_attempts(gcloud, name) if attempt.name not in request.earlier]
    running = [attempt for attempt in attempts if not attempt.ended]
    if running:
        logger.info("%s is in the state %s", name, running[0].state)
    elif f"model/{SUMS}" in job.names():  # it has ended since the files were listed
        logger.info("%s has just ended. The next call registers its model", name)
    elif attempts:
        raise _UnusableError(failure(gcloud, name, attempts[0]))
    elif not is_starting(request, attempts):
        raise _UnusableError(
            f"The job {name} was never started. Start it again with the same settings and cloud.train.job="
            f"{name.removeprefix(f'{gcloud.cloud.name}-')}."
        )


def _fetch(overrides: Sequence[str], url: str, request: Request, work: Path) -> Config:
    """Downloads the model and the own data of a job. Returns the configuration to evaluate and register the model."""
    folder = Path(tempfile.mkdtemp(dir=work))
    fetch_model(f"{url}/model", folder)
    own = [option for option in request.settings["options"] if _ABOUT_DATA.match(option)]
    if data := request.settings["data"]:
        own += [*OWN_DATA, f"data.raw_dir='{fetch(data, folder / 'raw')}'"]
    if collected := request.settings.get("collected"):
        own.append(f"data.collected='{fetch(collected, folder / 'collected')}'")
    own += [
        f"data.processed_dir='{work / 'processed'}'",
        "data.processed_url=null",
    ]  # not the prepared data of the user
    places = [f"ckpt_path='{folder / FILES[1]}'", f"evaluation.reports_dir='{folder / 'reports'}'"]
    return load_config([*own, "registry=gcs", *overrides, *places])


def _register(measured: Config, url: str, repository: Path, *, push: bool) -> str:
    served = measured.ckpt_path.with_name(SERVED)
    model = Classifier.load(served)
    tags = version_tags(repository)
    version = registered_as(open_storage(measured.registry.store), sha256(served))
    if version in tags:  # a call was killed before it recorded this
        if push:
            git(repository, "push", REMOTE, f"refs/tags/{tags[version].name}")
        return version
    commit = str(model.info.provenance.get("git_commit") or "")
    if not commit or commit.endswith(UNCOMMITTED):
        raise _UnusableError(
            f"The model in {url} cannot be registered, because its training code is not a commit: the container image "
            f"records {commit or 'none'!r}. Build the container image with `inv gcp.build`."
        )
    evaluate(measured)
    robustness(measured)
    return register(measured, repository, push=push, commit=commit)


def _stage(measured: Config, version: str, repository: Path, *, push: bool) -> str:
    """Promotes a version to staging. If it fails the gate, the stage stays as it is, and the reason is returned."""
    current = read_current(open_storage(measured.registry.store), repository, STAGING)
    if current.version == version:  # a call was killed before it recorded this
        sync(measured, repository)
        return ""
    try:
        promote(measured, STAGING, version, repository, push=push)
    except GateError as error:
        logger.error("%s The models that are served stay as they are", error)  # noqa: TRY400
        return str(error)
    return ""


def _fetch_tags(repository: Path) -> None:
    try:
        git(repository, "fetch", "--quiet", REMOTE, f"refs/tags/{model_name()}*:refs/tags/{model_name()}*")
    except GitError as error:
        raise RegistryError(f"Cannot fetch the tags of the registry from {REMOTE}: {error}") from error


@app.command("collect")
def main(
    override: OverrideOption,
    push: Annotated[bool, typer.Option("--push", help="Push the tags to the Git remote origin.")] = False,
) -> None:
    """Registers the models of training jobs that have ended, and prints their versions."""
    done = collect(override, push=push)
    for version in done.versions:
        typer.echo(version)
    if done.problems:
        raise CloudError(f"Jobs with a problem: {len(done.problems)}. {' '.join(done.problems)}")


if __name__ == "__main__":
    typer_main(app)
