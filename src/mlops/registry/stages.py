"""Reads the stages from the Git tags, and copies the newest tag of a stage to the store, where services find it."""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from src.mlops.errors import BusyError, FileExistsInStorageError, MissingFileError, RegistryError, StorageError
from src.mlops.io.files import to_json
from src.mlops.io.storage import Storage
from src.mlops.modelfile.store import Stage, read_stage, stage_file
from src.mlops.registry.tags import Tag, is_rollback, stage_tags


class Current(NamedTuple):
    """The state of a stage.

    Attributes:
        tag: Tag of the newest promotion or rollback; None if there is none.
        history: Versions that were promoted and not rolled back, oldest first. The last one is in the stage.
        state: State of the file in the store (`Storage.state`); None if there is no file.
        synced: Whether the store has the newest tag.
    """

    tag: Tag | None
    history: list[str]
    state: str | None
    synced: bool

    @property
    def version(self) -> str | None:
        """The version in the stage."""
        return self.tag.version if self.tag else None


def read_current(storage: Storage, repository: Path, stage: str) -> Current:
    """Reads a stage from the tags, and checks that the store is not ahead of them.

    Raises:
        RegistryError: The store has a promotion whose tag is not in this clone, or its file of the stage is corrupted.
        StorageError: The store cannot be read.
    """
    tags = stage_tags(repository, stage)
    known = [Stage(tag.version, tag.digest, tag.name) for tag in tags]
    place, stored, state = stage_file(stage), None, None
    try:
        state = storage.state(place)
        stored = read_stage(storage, stage)
        ahead = stored not in [None, *known]
    except MissingFileError:
        place = f"stages/{stage}"
        ahead = len(storage.names(place)) > len(tags)  # earlier releases wrote one file per tag
    if ahead:
        raise RegistryError(
            f"{storage.url} has a promotion to {stage} whose tag is not in this clone. Run `git fetch --tags` and then "
            "this command again. If the tag was not pushed, push it from the clone that made it. If it was deleted on "
            f"purpose, delete {place} in the store and run `inv registry.sync`."
        )
    history: list[str] = []
    for tag in tags:
        if is_rollback(tag):  # usually removes one version, or more if tags were deleted
            while history and history[-1] != tag.version:
                history.pop()
        if history[-1:] != [tag.version]:
            history.append(tag.version)
    return Current(tags[-1] if tags else None, history, state, known[-1:] == [stored])


def write_stage(storage: Storage, stage: str, tag: Tag, state: str | None) -> None:
    """Copies the newest tag of a stage to the store, unless another clone changed the stage in the meantime.

    Raises:
        BusyError: Another clone changed it.
        StorageError: The store cannot be written.
    """
    content = to_json({"tag": tag.name, **tag.message}, indent=2) + "\n"
    try:
        storage.create(stage_file(stage), content.encode(), replaces=state)
    except (FileExistsInStorageError, MissingFileError) as error:
        raise BusyError(
            f"Another command changed {stage} at the same time. See `inv registry.list` and run the command again."
        ) from error


def delete_old_records(storage: Storage, stage: str) -> None:
    """Deletes the records of earlier releases: services would read them if the new file of the stage was lost."""
    with suppress(StorageError):  # the promotion is complete; the next one deletes them
        for record in storage.names(f"stages/{stage}"):
            storage.remove(record)
