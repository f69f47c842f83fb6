"""Stores versions and stages of the model as annotated Git tags. GTO writes them; each message is a line of JSON."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gto import api as gto
from gto.exceptions import GTOException
from scmrepo.exceptions import SCMError

from src.mlops.errors import GitError, MlopsError, RegistryError
from src.mlops.io.files import to_json
from src.mlops.io.git import git
from src.mlops.modelfile.store import NAME, number_of

logger = logging.getLogger(__name__)
REMOTE = "origin"


@dataclass(frozen=True)
class Tag:
    """The Git tag of a version, or of a promotion or rollback.

    Attributes:
        name: Name of the tag, such as `gtsrb@v3.0.0` or `gtsrb#production#5`.
        version: The version, such as `v3`.
        commit: Hash of the commit that the tag points to.
        message: The JSON object in the message of the tag.
    """

    name: str
    version: str
    commit: str
    message: dict[str, Any]


def version_tags(repository: Path) -> dict[str, Tag]:
    """Returns a mapping from each version to its tag."""
    return {tag.version: tag for tag in _read(repository, f"{NAME}@v*")}


def stage_tags(repository: Path, stage: str) -> list[Tag]:
    """Returns the promotions and rollbacks of a stage, oldest first. The last one has the current version."""
    return sorted(_read(repository, f"{NAME}#{stage}#*"), key=lambda tag: int(tag.name.rpartition("#")[2]))


def version_of(repository: Path, name: str) -> str:
    """Returns the version of a name.

    Args:
        repository: The Git repository.
        name: `v3`, `v3.0.0`, the tag of a version `gtsrb@v3.0.0`, or the tag of a stage `gtsrb#production#5`.

    Raises:
        RegistryError: There is no such tag, or the name has another form.
    """
    if not name.startswith(f"{NAME}#"):
        return f"v{number_of(name.removeprefix(f'{NAME}@'))}"
    for tag in _read(repository, name):
        return tag.version
    raise RegistryError(f"No valid tag {name} in {repository}. Fetch the tags with `git fetch --tags`.")


def _read(repository: Path, pattern: str) -> Iterator[Tag]:
    fields = "%00".join(["%(refname:lstrip=2)", "%(*objectname)", "%(contents)"]) + "%01"
    listed = git(repository, "for-each-ref", f"--format={fields}", f"refs/tags/{pattern}")
    for entry in filter(None, (entry.strip() for entry in listed.split("\x01"))):
        name, commit, message = entry.split("\x00")
        try:
            facts = json.loads(message)
            version = facts["version"] if "#" in name else name.partition("@")[2]
            yield Tag(name, f"v{number_of(version)}", commit, dict(facts))
        except (ValueError, KeyError, TypeError, RegistryError):
            logger.warning("Ignoring the tag %s, which no command of the registry created", name)


def tag_version(repository: Path, version: str, facts: dict[str, Any], undo: ExitStack, *, push: bool) -> None:
    """Tags the current commit as a version. `undo` removes the tag.

    Raises:
        RegistryError: Git cannot create the tag, or cannot push it.
    """
    _tag(gto.register, "HEAD", repository, facts, undo, push=push, version=f"{version}.0.0")


def tag_stage(repository: Path, stage: str, record: dict[str, Any], undo: ExitStack, *, push: bool) -> str:
    """Tags the commit of the version in `record` with a stage, and returns the name of the tag. `undo` removes the tag.

    Raises:
        RegistryError: Git cannot create the tag, or cannot push it.
    """
    # force: a version can be put into the same stage again.
    return _tag(gto.assign, stage, repository, record, undo, push=push, version=f"{record['version']}.0.0", force=True)


def take_back(undo: ExitStack, work: Callable[..., object], *arguments: object) -> None:
    """Registers a function that `undo` calls if a later step fails."""

    def attempt() -> None:
        try:
            work(*arguments)
        except MlopsError as error:  # only log it: the user must see the error that caused the undo
            logger.warning("Cannot undo %s: %s", arguments[-1], error)

    undo.callback(attempt)


def _tag(
    create: Callable[..., Any],
    what: str,
    repository: Path,
    facts: dict[str, Any],
    undo: ExitStack,
    *,
    push: bool,
    **options: Any,
) -> str:
    try:
        tag = str(create(str(repository), NAME, what, message=to_json(facts), **options).tag)
    except (GTOException, SCMError) as error:
        raise RegistryError(f"Git cannot create the tag: {error}.") from error
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
    return tag
