"""Registers, promotes, rolls back and fetches versions of the model: Git tags, and files in a store.

A version is a tag `gtsrb@v3.0.0` and the folder `versions/v3` of the store. A promotion or rollback is a tag
`gtsrb#production#5`. The tags are authoritative; `stages/production.json` in the store is a copy of the newest one, for
services (`modelfile/store.py`). If a step fails, the steps before it are undone. What services read is written last.
"""

import hashlib
import logging
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from src.mlops import ROOT
from src.mlops.config import Config
from src.mlops.errors import (
    FileExistsInStorageError,
    GateError,
    GitError,
    MissingFileError,
    RegistryError,
    StorageError,
)
from src.mlops.evaluation.measurements import read_measurements
from src.mlops.inference.classifier import Classifier
from src.mlops.io.files import sha256, to_json
from src.mlops.io.git import git
from src.mlops.io.storage import Storage, open_storage
from src.mlops.modelfile.store import (
    FILES,
    MANIFEST,
    SERVED,
    STAGES,
    Stage,
    Version,
    model_name,
    number_of,
    read_stage,
    read_version,
    stage_file,
    versions,
)
from src.mlops.registry.gate import Check, run_gate, show
from src.mlops.registry.tags import Tag, add_tag, now, stage_tags, tag_stage, take_back, version_of, version_tags
from src.mlops.registry.wandb import publish_model

logger = logging.getLogger(__name__)


def register(config: Config, repository: Path = ROOT, *, push: bool = False) -> str:
    """Registers the model at `config.ckpt_path` as the next version.

    Uploads the files to the store and tags the current commit.

    Args:
        config: `registry.store` is the store, `evaluation.reports_dir` is the folder of the model's metrics.
        repository: The Git repository.
        push: Whether to push the tag to the Git remote `origin`.

    Returns:
        The version, such as `v3`.

    Raises:
        RegistryError: The repository has uncommitted changes, the commit or the model is already a version, another
            registration runs at the same time, or Git cannot create or push the tag. Nothing is registered then.
        CheckpointError: There is no usable checkpoint, or no export of it.
        DataError: The model was not evaluated.
        StorageError: The store cannot be written.
    """
    with _alone(repository) as undo:
        _require_clean(repository)
        files = {SERVED: config.ckpt_path.with_suffix(".onnx"), FILES[1]: config.ckpt_path}
        classifier = Classifier.load(files[SERVED])
        Classifier.load(files[FILES[1]])
        metrics, robustness = read_measurements(config, classifier)
        storage = open_storage(config.registry.store)
        hashes = {name: {"sha256": sha256(path), "bytes": path.stat().st_size} for name, path in files.items()}
        _require_new(storage, hashes)
        version = _claim(storage, repository, undo)
        info = classifier.info
        manifest = {
            "name": model_name(),
            "version": version,
            "created": now(),
            "commit": git(repository, "rev-parse", "HEAD"),
            "files": hashes,
            "data_fingerprint": info.provenance["data_fingerprint"],
            "provenance": info.provenance,
            "calibration": info.calibration.to_dict(),
            "config": info.config,
            "metrics": metrics,
            "robustness": robustness,
        }
        for name, path in files.items():
            take_back(undo, storage.remove, f"versions/{version}/{name}")
            storage.upload(path, f"versions/{version}/{name}")
        content = (to_json(manifest, indent=2) + "\n").encode()
        storage.create(f"versions/{version}/{MANIFEST}", content)
        take_back(undo, storage.remove, f"versions/{version}/{MANIFEST}")
        facts = {
            "manifest_sha256": hashlib.sha256(content).hexdigest(),
            "data_fingerprint": manifest["data_fingerprint"],
            "accuracy": metrics["Accuracy"],
            **{name: entry["sha256"] for name, entry in hashes.items()},
        }
        add_tag(repository, f"{model_name()}@{version}.0.0", "HEAD", facts, undo, push=push)
    publish_model(config, version, list(files.values()), manifest)
    logger.info(
        "Registered %s@%s with an accuracy of %.2f%% in %s",
        model_name(),
        version,
        100 * metrics["Accuracy"],
        storage.url,
    )
    return version


def promote(
    config: Config,
    stage: str,
    wanted: str | None = None,
    repository: Path = ROOT,
    *,
    force: bool = False,
    push: bool = False,
) -> tuple[str, list[Check]]:
    """Puts a version into a stage if it passes the gate.

    Args:
        config: `registry.store` is the store, `gate` holds the limits.
        stage: `staging` or `production`.
        wanted: The version, or None for the newest version.
        repository: The Git repository.
        force: Whether to promote even if the gate fails. This is recorded.
        push: Whether to push the tag to the Git remote `origin`.

    Returns:
        The version and the gate's checks.

    Raises:
        GateError: A check of the gate fails, and `force` is not set.
        RegistryError: The version does not exist, its files are missing or changed, it is already in the stage, or
            another promotion runs at the same time. The stage is unchanged then.
        StorageError: The store cannot be used.
    """
    storage = open_storage(config.registry.store)
    with _alone(repository) as undo, tempfile.TemporaryDirectory() as work:
        version = _registered(storage, repository, wanted)
        name = version.name
        before, production = (_current(storage, repository, each) for each in (stage, "production"))
        if before.version == name:
            missing = "The store does not have this promotion yet. Write it with `inv registry.sync`."
            raise RegistryError(
                f"{name} is already in {stage}. {'Promote a different version.' if before.synced else missing}"
            )
        candidate = _fetch(storage, version, Path(work, "candidate"))
        rival = None
        if production.version and production.version != name:
            rival = _fetch(storage, _registered(storage, repository, production.version), Path(work, "production"))
        checks = run_gate(config, candidate, rival, version.manifest["robustness"])
        Console(stderr=True).print(show(checks))
        failed = [check.name for check in checks if not check.passed]
        if failed and not force:
            raise GateError(
                f"{name} failed the gate for {stage}: {', '.join(failed)}. The limits are in configshydra/gate/. "
                "`inv registry.promote --force` overrides them; this is recorded."
            )
        facts = {"event": "promote", "forced": bool(failed), "checks": [asdict(check) for check in checks]}
        tag = tag_stage(repository, stage, version, facts, undo, push=push)
        _write_stage(storage, stage, tag, before.state)
    _delete_old_records(storage, stage)
    publish_model(config, name, [], version.manifest, stage)
    logger.info(
        "%s@%s is in %s%s",
        model_name(),
        name,
        stage,
        f", although these checks failed: {', '.join(failed)}" if failed else "",
    )
    return name, checks


def rollback(config: Config, stage: str, repository: Path = ROOT, *, push: bool = False) -> str:
    """Puts the previous version of a stage back into it, without the gate. The arguments are those of `promote`.

    Returns:
        The version.

    Raises:
        RegistryError: There is no previous version, its files are missing or changed, or another command changes the
            stage at the same time. The stage is unchanged then.
        StorageError: The store cannot be used.
    """
    storage = open_storage(config.registry.store)
    with _alone(repository) as undo, tempfile.TemporaryDirectory() as work:
        before = _current(storage, repository, stage)
        if len(before.history) < 2:
            raise RegistryError(f"Cannot roll back {stage}: it has no version before {before.version or 'this'}.")
        version = _registered(storage, repository, before.history[-2])
        _fetch(storage, version, Path(work))
        tag = tag_stage(repository, stage, version, {"event": "rollback"}, undo, push=push)
        _write_stage(storage, stage, tag, before.state)
    _delete_old_records(storage, stage)
    publish_model(config, version.name, [], version.manifest, stage)
    logger.info("Rolled %s back to %s@%s from %s", stage, model_name(), version.name, before.version)
    return version.name


def sync(config: Config, repository: Path = ROOT) -> None:
    """Writes the version in each stage to the store, from the Git tags.

    This converts stores of earlier releases, whose records in `stages/*/` are then deleted.

    Raises:
        RegistryError: The store has a promotion that the tags of this clone do not have, or a version in a stage is not
            in the store. The store is unchanged then.
        StorageError: The store cannot be used.
    """
    storage = open_storage(config.registry.store)
    with _alone(repository):
        current = {stage: _current(storage, repository, stage) for stage in STAGES}
        for version in filter(None, (each.version for each in current.values())):
            _registered(storage, repository, version)
        for stage, each in current.items():
            if each.tag:
                _write_stage(storage, stage, each.tag, each.state)
                _delete_old_records(storage, stage)
            logger.info("%s in %s: %s", stage, storage.url, each.version or "no version")


def pull(config: Config, wanted: str | None = None, repository: Path = ROOT) -> Path:
    """Fetches the files of a version to the folder of `config.ckpt_path` and checks their hashes.

    Args:
        config: `registry.store` is the store.
        wanted: The version, a tag of the registry, or None for the newest version.
        repository: The Git repository.

    Returns:
        The folder of the files.

    Raises:
        RegistryError: The version does not exist, or its files are missing or changed. The folder is unchanged then.
        StorageError: The store cannot be read.
    """
    storage = open_storage(config.registry.store)
    version = _registered(storage, repository, wanted)
    folder = config.ckpt_path.parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pull-") as work:
        _fetch(storage, version, Path(work))
        for name in version.manifest["files"]:
            Path(work, name).replace(folder / name)
    logger.info("%s@%s is in %s", model_name(), version.name, folder)
    return folder


def table(config: Config, repository: Path = ROOT) -> Table:
    """Returns a table of all versions and their state, newest version first."""
    storage = open_storage(config.registry.store)
    tags, stored = version_tags(repository), versions(storage)
    stages = {stage: _current(storage, repository, stage) for stage in STAGES}
    drawn = Table("version", "stage", "accuracy, %", "data", "commit", "trained", "state")
    for name in sorted({*tags, *stored}, key=number_of, reverse=True):
        version = read_version(storage, name) if name in stored else None
        cells = ["", "", "", ""]
        if version:
            facts = version.manifest
            accuracy, trained = facts["metrics"]["Accuracy"], facts["provenance"]["created"]
            cells = [f"{100 * accuracy:.2f}", facts["data_fingerprint"][:12], facts["commit"][:8], trained[:10]]
        held = [
            stage if each.synced else f"{stage} [red](not in the store yet: inv registry.sync)[/red]"
            for stage, each in stages.items()
            if each.version == name
        ]
        drawn.add_row(name, ", ".join(held), *cells, _state(tags.get(name), version))
    return drawn


def _state(tag: Tag | None, version: Version | None) -> str:
    if version is None:
        return "[red]tag without files[/red]"
    if tag is None:
        return "[yellow]no local tag: git fetch --tags[/yellow]"
    return "complete" if tag.digest == version.digest else "[red]manifest changed[/red]"


@contextmanager
def _alone(repository: Path) -> Iterator[ExitStack]:
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
        raise RegistryError(
            "Another process is changing the registry. Run the command again when that process has finished."
        ) from error
    with lock, ExitStack() as undo:
        yield undo
        undo.pop_all()


def _require_clean(repository: Path) -> None:
    changed = git(repository, "status", "--porcelain")
    if changed:
        files = ", ".join(line.split(maxsplit=1)[1] for line in changed.splitlines()[:5])
        raise RegistryError(
            f"Uncommitted changes in {files}. Commit them first: the version must be reproducible from its commit."
        )
    head = git(repository, "rev-parse", "HEAD")
    if there := git(repository, "tag", "--points-at", head, "--list", f"{model_name()}@v*"):
        raise RegistryError(
            f"Commit {head[:8]} already has the version {there}. A commit can have only one version: commit the "
            "changes that led to this model, such as dvc.lock or a setting, and run the command again."
        )


def _require_new(storage: Storage, hashes: dict[str, dict[str, Any]]) -> None:
    for name in versions(storage):
        if read_version(storage, name).manifest["files"][SERVED]["sha256"] == hashes[SERVED]["sha256"]:
            raise RegistryError(
                f"This model file is already registered as {name}. If that registration was killed and no clone "
                f"has the tag {model_name()}@{name}.0.0, delete versions/{name} in {storage.url} and run this command "
                "again."
            )


def _claim(storage: Storage, repository: Path, undo: ExitStack) -> str:
    """Reserves the number of the next version, which protects its folder from other registrations."""
    taken = {entry.split("/")[1] for entry in storage.names("versions")} | set(version_tags(repository))
    version = f"v{1 + max((number_of(name) for name in taken), default=0)}"
    claim = f"versions/{version}/claim.json"
    try:
        storage.create(claim, to_json({"id": uuid.uuid4().hex, "created": now()}).encode())
    except FileExistsInStorageError as error:
        raise RegistryError(
            f"Another registration took {version} at the same time. Run `inv registry.register` again."
        ) from error
    take_back(undo, storage.remove, claim)
    return version


def _registered(storage: Storage, repository: Path, wanted: str | None) -> Version:
    """Reads a version, by default the newest, and checks that its tag and its files match."""
    tags = version_tags(repository)
    known = sorted({*tags, *versions(storage)}, key=number_of)
    if not known:
        raise RegistryError(f"No registered version in {storage.url}. Register one with `inv registry.register`.")
    name = version_of(repository, wanted) if wanted else known[-1]
    if name not in tags:
        raise RegistryError(
            f"{model_name()}@{name} has no tag in this clone. Fetch the tags with `git fetch --tags`, or use one of "
            f"the registered versions: {', '.join(known)}."
        )
    version = read_version(storage, name)
    if tags[name].digest != version.digest:
        raise RegistryError(
            f"The manifest of {name} in {storage.url} has changed since the registration: its hash differs from the "
            "hash in the tag. Do not use this version. Register the model again."
        )
    return version


def _fetch(storage: Storage, version: Version, folder: Path) -> Path:
    """Downloads the files of a version and checks them."""
    for name, facts in version.manifest["files"].items():
        try:
            storage.download(f"versions/{version.name}/{name}", folder / name)
        except MissingFileError as error:
            raise RegistryError(f"{name} of {version.name} is missing in {storage.url}.") from error
        if sha256(folder / name) != facts["sha256"]:
            raise RegistryError(
                f"{name} of {version.name} in {storage.url} has changed since the registration. Do not use this "
                "version."
            )
    return folder


class _Current(NamedTuple):
    tag: Tag | None  # of the newest promotion or rollback
    history: list[str]  # the versions that were promoted and not rolled back, oldest first
    state: str | None  # of the file in the store
    synced: bool  # whether the store has the newest tag

    @property
    def version(self) -> str | None:
        return self.tag.version if self.tag else None


def _current(storage: Storage, repository: Path, stage: str) -> _Current:
    """Reads a stage from the tags, and checks that the store is not ahead of them."""
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
        if tag.message.get("event") == "rollback":  # usually removes one version, or more if tags were deleted
            while history and history[-1] != tag.version:
                history.pop()
        if history[-1:] != [tag.version]:
            history.append(tag.version)
    return _Current(tags[-1] if tags else None, history, state, known[-1:] == [stored])


def _write_stage(storage: Storage, stage: str, tag: Tag, state: str | None) -> None:
    """Copies the newest tag of a stage to the store, unless another clone changed the stage in the meantime."""
    content = to_json({"tag": tag.name, **tag.message}, indent=2) + "\n"
    try:
        storage.create(stage_file(stage), content.encode(), replaces=state)
    except (FileExistsInStorageError, MissingFileError) as error:
        raise RegistryError(
            f"Another command changed {stage} at the same time. See `inv registry.list` and run the command again."
        ) from error


def _delete_old_records(storage: Storage, stage: str) -> None:
    """Deletes the records of earlier releases: services would read them if the new file of the stage was lost."""
    with suppress(StorageError):  # the promotion is complete; the next one deletes them
        for record in storage.names(f"stages/{stage}"):
            storage.remove(record)
