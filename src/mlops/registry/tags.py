"""Stores versions and stages of the model as annotated Git tags, with names as in GTO. Messages are a line of JSON."""

import json
import logging
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from src.mlops.errors import BusyError, GitError, MlopsError, RegistryError
from src.mlops.io.files import to_json
from src.mlops.io.git import git
from src.mlops.modelfile.store import Version, model_name, number_of

logger = logging.getLogger(__name__)
REMOTE = "origin"


@dataclass(frozen=True)
class Tag:
    """The Git tag of a version, or of a promotion or rollback.

    Attributes:
        name: Name of the tag, such as `gtsrb@v3.0.0` or `gtsrb#production#5`.
        version: The version, such as `v3`.
        digest: SHA-256 of the manifest of the version.
        message: The JSON object in the message of the tag.
    """

    name: str
    version: str
    digest: str
    message: dict[str, Any]


@contextmanager
def alone(repository: Path) -> Iterator[ExitStack]:
    """Locks the registry for other processes of this clone. The store and the Git remote detect other clones.

    Yields the stack of functions that are called if the body fails.
    """
    try:
        folder = Path(git(repository, "rev-parse", "--absolute-git-dir"))
    except GitError as error:
        raise RegistryError(f"No Git repository at {repository}. The registry stores versions as Git tags.") from error
    try:
        lock = FileLock(folder / "model-registry.lock").acquire(blocking=False)
    except Timeout as error:
        raise BusyError(
            "Another process is changing the registry. Run the command again when that process has finished."
        ) from error
    with lock, ExitStack() as undo:
        yield undo
        undo.pop_all()


def version_tags(repository: Path) -> dict[str, Tag]:
    """Returns a mapping from each version to its tag."""
    return {tag.version: tag for tag in _read(repository, f"{model_name()}@v*")}


def stage_tags(repository: Path, stage: str) -> list[Tag]:
    """Returns the promotions and rollbacks of a stage, oldest first. The last one has the current version."""
    return list(_read(repository, f"{model_name()}#{stage}#[0-9]*"))


def version_of(repository: Path, name: str) -> str:
    """Returns the version of a name.

    Args:
        repository: The Git repository.
        name: `v3`, `v3.0.0`, the tag of a version `gtsrb@v3.0.0`, or the tag of a stage `gtsrb#production#5`.

    Raises:
        RegistryError: There is no such tag, or the name has another form.
    """
    if not name.startswith(f"{model_name()}#"):
        return f"v{number_of(name.removeprefix(f'{model_name()}@'))}"
    for tag in _read(repository, name):
        return tag.version
    raise RegistryError(f"No valid tag {name} in {repository}. Fetch the tags with `git fetch --tags`.")


def is_rollback(tag: Tag) -> bool:
    """Returns whether the tag of a stage is a rollback, and not a promotion."""
    return tag.message.get("event") == "rollback"


def _read(repository: Path, pattern: str) -> Iterator[Tag]:
    # The subject is the line of JSON; the contents would include the signature of a signed tag.
    fields = "--format=%(refname:lstrip=2) %(contents:subject)"
    for line in git(repository, "for-each-ref", "--sort=version:refname", fields, f"refs/tags/{pattern}").splitlines():
        name, _, message = line.partition(" ")
        try:
            facts = json.loads(message)
            version = facts["version"] if "#" in name else name.partition("@")[2]
            yield Tag(name, f"v{number_of(version)}", facts["manifest_sha256"], facts)
        except (ValueError, KeyError, TypeError, RegistryError):
            logger.warning("Ignoring the tag %s, which no command of the registry created", name)


def tag_stage(
    repository: Path, stage: str, version: Version, facts: dict[str, Any], undo: ExitStack, *, push: bool
) -> Tag:
    """Tags the commit of a version with a stage. `undo` removes the tag.

    Raises:
        RegistryError: Git cannot create the tag, or cannot push it.
    """
    numbers = re.findall(r"#(\d+)$", git(repository, "tag", "--list", f"{model_name()}#*"), re.MULTILINE)
    record = {
        "version": version.name,
        "manifest_sha256": version.digest,
        "created": now(),
        "id": uuid.uuid4().hex,  # differs from the record of another clone
        **facts,
    }
    name = f"{model_name()}#{stage}#{1 + max(map(int, numbers), default=0)}"
    add_tag(repository, name, f"{model_name()}@{version.name}.0.0^{{commit}}", record, undo, push=push)
    return Tag(name, version.name, version.digest, record)


def add_tag(repository: Path, name: str, commit: str, facts: dict[str, Any], undo: ExitStack, *, push: bool) -> None:
    """Creates an annotated tag. `undo` removes it.

    Raises:
        RegistryError: Git cannot create the tag, or cannot push it.
    """
    try:
        git(repository, "tag", "--annotate", name, commit, "--message", to_json(facts))
    except GitError as error:
        raise RegistryError(f"Git cannot create the tag {name}: {error}") from error
    take_back(undo, git, repository, "tag", "--delete", name)
    if push:
        try:
            git(repository, "push", REMOTE, f"refs/tags/{name}")
        except GitError as error:
            raise RegistryError(
                f"Cannot push the tag {name} to {REMOTE}: {error} If another promotion was pushed in the meantime, run "
                "`git fetch --tags` and then this command again."
            ) from error
        take_back(undo, git, repository, "push", REMOTE, "--delete", f"refs/tags/{name}")


def take_back(undo: ExitStack, work: Callable[..., object], *arguments: object) -> None:
    """Registers a function that `undo` calls if a later step fails."""

    def attempt() -> None:
        try:
            work(*arguments)
        except MlopsError as error:  # only log it: the user must see the error that caused the undo
            logger.warning("Cannot undo %s: %s", arguments[-1], error)

    undo.callback(attempt)


def now() -> str:
    """Returns the time in UTC for the records of the registry."""
    return datetime.now(UTC).isoformat(timespec="seconds")
