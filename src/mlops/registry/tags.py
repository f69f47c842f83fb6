"""Stores versions and stages of the model as annotated Git tags. GTO writes them; each message is a line of JSON."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gto import api as gto
from gto.exceptions import GTOException
from scmrepo.exceptions import SCMError

from src.mlops.errors import GitError, MlopsError, RegistryError
from src.mlops.io.files import to_json
from src.mlops.io.git import git
from src.mlops.modelfile.store import NAME, Version, number_of

logger = logging.getLogger(__name__)
REMOTE = "origin"


@dataclass(frozen=True)
class Tag:
    """The Git tag of a version.

    Attributes:
        commit: Hash of the commit that the tag points to.
        message: The JSON object in the message of the tag.
    """

    commit: str
    message: dict[str, Any]


def read_tags(repository: Path) -> dict[str, Tag]:
    """Returns a mapping from each version to its tag."""
    fields = "%00".join(["%(refname:short)", "%(*objectname)", "%(contents)"]) + "%01"
    listed = git(repository, "for-each-ref", f"--format={fields}", f"refs/tags/{NAME}@v*")
    tags = {}
    for entry in filter(None, (entry.strip() for entry in listed.split("\x01"))):
        name, commit, message = entry.split("\x00")
        try:
            facts = json.loads(message)
            tags[f"v{number_of(name.partition('@')[2])}"] = Tag(commit, facts if isinstance(facts, dict) else {})
        except (ValueError, RegistryError):
            logger.warning("Ignoring the tag %s, which `inv registry.register` did not create", name)
    return tags


def version_of(repository: Path, name: str) -> str:
    """Returns the version of a name.

    Args:
        repository: The Git repository.
        name: `v3`, `v3.0.0`, the tag of a version `gtsrb@v3.0.0`, or the tag of a stage `gtsrb#production#5`.

    Returns:
        The version, such as `v3`.

    Raises:
        RegistryError: There is no such tag, or the name has another form.
    """
    if name.startswith(f"{NAME}#"):
        try:
            message = json.loads(git(repository, "for-each-ref", "--format=%(contents)", f"refs/tags/{name}"))
            return f"v{number_of(message['version'])}"
        except (ValueError, KeyError, TypeError) as error:
            raise RegistryError(
                f"No valid tag {name} in {repository}. Fetch the tags with `git fetch --tags`."
            ) from error
    return f"v{number_of(name.removeprefix(f'{NAME}@'))}"


def tag_version(repository: Path, version: str, facts: dict[str, Any], undo: ExitStack, *, push: bool) -> None:
    """Tags the current commit as a version. `undo` removes the tag.

    Raises:
        RegistryError: Git cannot create the tag, or cannot push it.
    """
    with _tagging(repository, undo, push=push):
        gto.register(str(repository), NAME, "HEAD", version=f"{version}.0.0", message=to_json(facts))


def tag_stage(
    repository: Path, stage: str, version: Version, record: dict[str, Any], undo: ExitStack, *, push: bool
) -> None:
    """Tags the commit of a version with a stage. `undo` removes the tag.

    Raises:
        RegistryError: Git cannot create the tag, or cannot push it.
    """
    short = {key: value for key, value in record.items() if key != "checks"}
    short["failed"] = [check["name"] for check in record["checks"] if not check["passed"]]
    with _tagging(repository, undo, push=push):
        # force: a version can be put into the same stage again.
        gto.assign(str(repository), NAME, stage, version=f"{version.name}.0.0", message=to_json(short), force=True)


def take_back(undo: ExitStack, work: Callable[..., object], *arguments: object) -> None:
    """Registers a function that `undo` calls if a later step fails."""

    def attempt() -> None:
        try:
            work(*arguments)
        except MlopsError as error:  # only log it: the user must see the error that caused the undo
            logger.warning("Cannot undo %s: %s", arguments[-1], error)

    undo.callback(attempt)


@contextmanager
def _tagging(repository: Path, undo: ExitStack, *, push: bool) -> Iterator[None]:
    """Finds the tag that the body creates and pushes it if `push` is set. `undo` removes the tag again."""
    before = set(git(repository, "tag", "--list").split())
    try:
        yield
    except (GTOException, SCMError) as error:
        raise RegistryError(f"Git cannot create the tag: {error}.") from error
    [tag] = set(git(repository, "tag", "--list").split()) - before
    take_back(undo, git, repository, "tag", "--delete", tag)
    if push:
        try:
            git(repository, "push", REMOTE, f"refs/tags/{tag}")
        except GitError as error:
            raise RegistryError(
                f"Cannot push the tag {tag} to {REMOTE}: {error} If another promotion was pushed in the meantime, run "
                "`git fetch --tags` and then this command again."
            ) from error
        take_back(undo, git, repository, "push", REMOTE, "--delete", f"refs/tags/{tag}")
