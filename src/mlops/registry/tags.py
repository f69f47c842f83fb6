"""Versions and stages of the model as annotated Git tags, which GTO writes; each message is a line of JSON."""

import json
import logging
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gto import api as gto
from gto.exceptions import GTOException
from scmrepo.exceptions import SCMError

from src.mlops.errors import MlopsError, RegistryError
from src.mlops.model_store import NAME, Version, number_of

logger = logging.getLogger(__name__)
REMOTE = "origin"


@dataclass(frozen=True)
class Tag:
    """A tag of a version.

    Attributes:
        commit: What it points to.
        message: What was recorded with it.
    """

    commit: str
    message: dict[str, Any]


def read_tags(repository: Path) -> dict[str, Tag]:
    """Returns the tags of versions by version."""
    fields = "%00".join(["%(refname:short)", "%(*objectname)", "%(contents)"]) + "%01"
    listed = git(repository, "for-each-ref", f"--format={fields}", f"refs/tags/{NAME}@v*")
    tags = {}
    for entry in filter(None, (entry.strip() for entry in listed.split("\x01"))):
        name, commit, message = entry.split("\x00")
        try:
            facts = json.loads(message)
            tags[f"v{number_of(name.partition('@')[2])}"] = Tag(commit, facts if isinstance(facts, dict) else {})
        except (ValueError, RegistryError):
            logger.warning("%s is no tag that `inv register` made", name)
    return tags


def version_of(repository: Path, name: str) -> str:
    """Returns the version that a name means: `v3`, `v3.0.0`, the tag `gtsrb@v3.0.0`, or a stage's `gtsrb#production#5`.

    Raises:
        RegistryError: There is no such tag, or the name is none of these.
    """
    if name.startswith(f"{NAME}#"):
        try:
            message = json.loads(git(repository, "for-each-ref", "--format=%(contents)", f"refs/tags/{name}"))
            return f"v{number_of(message['version'])}"
        except (ValueError, KeyError, TypeError) as error:
            raise RegistryError(f"expected a tag of the registry, found no {name} here. `git fetch --tags`.") from error
    return f"v{number_of(name.removeprefix(f'{NAME}@'))}"


def tag_version(repository: Path, version: str, facts: dict[str, Any], undo: ExitStack, *, push: bool) -> None:
    """Tags the current commit as a version; `undo` takes that back.

    Raises:
        RegistryError: Git refuses, or with `push` its remote does.
    """
    with _tagging(repository, undo, push=push):
        gto.register(str(repository), NAME, "HEAD", version=f"{version}.0.0", message=json.dumps(facts))


def tag_stage(
    repository: Path, stage: str, version: Version, record: dict[str, Any], undo: ExitStack, *, push: bool
) -> None:
    """Tags the commit of a version as being in a stage; `undo` takes that back.

    Raises:
        RegistryError: Git refuses, or with `push` its remote does.
    """
    short = {key: value for key, value in record.items() if key != "checks"}
    short["failed"] = [check["name"] for check in record["checks"] if not check["passed"]]
    with _tagging(repository, undo, push=push):
        # force: a version may come back.
        gto.assign(str(repository), NAME, stage, version=f"{version.name}.0.0", message=json.dumps(short), force=True)


def take_back(undo: ExitStack, work: Callable[..., object], *arguments: object) -> None:
    """Notes what is to be done if a later step fails."""

    def attempt() -> None:
        try:
            work(*arguments)
        except MlopsError as error:  # the first failure is the one to tell; this one leaves something behind
            logger.warning("could not take back %s: %s", arguments[-1], error)

    undo.callback(attempt)


def git(repository: Path, *arguments: str) -> str:
    """Runs Git and returns what it prints.

    Raises:
        RegistryError: It fails; with its own reason.
    """
    result = subprocess.run(  # noqa: S603 - arguments are names, not a shell's text
        ["git", *arguments],  # noqa: S607
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        reason = " ".join(result.stderr.split()) or f"exit code {result.returncode}"
        raise RegistryError(f"expected `git {arguments[0]}` to succeed, found: {reason}.")
    return result.stdout.strip()


@contextmanager
def _tagging(repository: Path, undo: ExitStack, *, push: bool) -> Iterator[None]:
    """Finds the tag that the body makes, sends it if asked for, and takes it back if what follows fails."""
    before = set(git(repository, "tag", "--list").split())
    try:
        yield
    except (GTOException, SCMError) as error:
        raise RegistryError(f"expected Git to take the tag, found: {error}.") from error
    [tag] = set(git(repository, "tag", "--list").split()) - before
    take_back(undo, git, repository, "tag", "--delete", tag)
    if push:
        try:
            git(repository, "push", REMOTE, f"refs/tags/{tag}")
        except RegistryError as error:
            raise RegistryError(
                f"expected to send the tag {tag} to {REMOTE}, found: {error} If somebody else promoted meanwhile: "
                "`git fetch --tags`, then run the command again."
            ) from error
        take_back(undo, git, repository, "push", REMOTE, "--delete", f"refs/tags/{tag}")
