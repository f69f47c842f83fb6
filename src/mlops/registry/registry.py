"""Registers, promotes, rolls back and fetches versions of the model: Git tags, and files in a store.

A version is a tag `gtsrb@v3.0.0` and the folder `versions/v3` of the store. A promotion is a tag
`gtsrb#production#5` and a file in `stages/production`. GTO writes the tags, `modelfile/store.py` reads the files. If a
step fails, the steps before it are undone. The files that services read are written last.
"""

import hashlib
import logging
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from src.mlops import ROOT
from src.mlops.config import Config
from src.mlops.errors import FileExistsInStorageError, GateError, GitError, MissingFileError, RegistryError
from src.mlops.evaluation.measurements import read_measurements
from src.mlops.inference.classifier import Classifier
from src.mlops.io.files import sha256, to_json
from src.mlops.io.git import git
from src.mlops.io.storage import Storage, open_storage
from src.mlops.modelfile.store import (
    FILES,
    MANIFEST,
    NAME,
    SERVED,
    STAGES,
    Version,
    event_name,
    number_of,
    read_stage,
    read_version,
    require_hash,
    versions,
)
from src.mlops.registry.gate import Check, run_gate, show
from src.mlops.registry.tags import Tag, read_tags, tag_stage, tag_version, take_back, version_of
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
    with _alone(repository), ExitStack() as undo:
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
            "name": NAME,
            "version": version,
            "created": _now(),
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
            _put(storage, path, f"versions/{version}/{name}", undo)
        content = (to_json(manifest, indent=2) + "\n").encode()
        storage.create(f"versions/{version}/{MANIFEST}", content)
        take_back(undo, storage.remove, f"versions/{version}/{MANIFEST}")
        facts = {
            "manifest_sha256": hashlib.sha256(content).hexdigest(),
            "data_fingerprint": manifest["data_fingerprint"],
            "accuracy": metrics["Accuracy"],
            **{name: entry["sha256"] for name, entry in hashes.items()},
        }
        tag_version(repository, version, facts, undo, push=push)
        undo.pop_all()
    publish_model(config, version, list(files.values()), manifest)
    logger.info(
        "Registered %s@%s with an accuracy of %.2f%% in %s", NAME, version, 100 * metrics["Accuracy"], storage.url
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
    with _alone(repository), ExitStack() as undo, tempfile.TemporaryDirectory() as work:
        name = _wanted(wanted, storage, repository)
        version = _registered(storage, repository, name)
        before = read_stage(storage, stage)
        if before.version == name:
            raise RegistryError(f"{name} is already in {stage}. Promote a different version.")
        candidate = _fetch(storage, version, Path(work, "candidate"))
        in_production = read_stage(storage, "production").version
        rival = None
        if in_production not in (None, name):
            rival = _fetch(storage, read_version(storage, str(in_production)), Path(work, "production"))
        checks = run_gate(config, candidate, rival, version.manifest["robustness"])
        Console(stderr=True).print(show(checks))
        failed = [check.name for check in checks if not check.passed]
        if failed and not force:
            raise GateError(
                f"{name} failed the gate for {stage}: {', '.join(failed)}. The limits are in configshydra/gate/. "
                "`inv registry.promote --force` overrides them; this is recorded."
            )
        _assign(storage, repository, stage, version, before.events, undo, push=push, event="promote",
                previous=before.version, forced=bool(failed), checks=[check.to_dict() for check in checks])  # fmt: skip
        undo.pop_all()
    publish_model(config, name, [], version.manifest, stage)
    logger.info(
        "%s@%s is in %s%s", NAME, name, stage, f", although these checks failed: {', '.join(failed)}" if failed else ""
    )
    return name, checks


def rollback(config: Config, stage: str, repository: Path = ROOT, *, push: bool = False) -> str:
    """Puts the previous version of a stage back into it. The gate is not run again.

    Args:
        config: `registry.store` is the store.
        stage: `staging` or `production`.
        repository: The Git repository.
        push: Whether to push the tag to the Git remote `origin`.

    Returns:
        The version.

    Raises:
        RegistryError: There is no previous version, its files are missing or changed, or another command changes the
            stage at the same time. The stage is unchanged then.
        StorageError: The store cannot be used.
    """
    storage = open_storage(config.registry.store)
    with _alone(repository), ExitStack() as undo, tempfile.TemporaryDirectory() as work:
        now = read_stage(storage, stage)
        if len(now.history) < 2:
            reason = f"there is no version before {now.version}" if now.version else "no version was promoted to it"
            raise RegistryError(f"Cannot roll back {stage}: {reason}.")
        version = _registered(storage, repository, now.history[-2])
        _fetch(storage, version, Path(work))
        _assign(storage, repository, stage, version, now.events, undo, push=push, event="rollback",
                previous=now.version, forced=False, checks=[])  # fmt: skip
        undo.pop_all()
    publish_model(config, version.name, [], version.manifest, stage)
    logger.info("Rolled %s back to %s@%s from %s", stage, NAME, version.name, now.version)
    return version.name


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
    version = _registered(storage, repository, _wanted(wanted, storage, repository))
    folder = config.ckpt_path.parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pull-") as work:
        _fetch(storage, version, Path(work))
        for name in version.manifest["files"]:
            Path(work, name).replace(folder / name)
    logger.info("%s@%s is in %s", NAME, version.name, folder)
    return folder


def table(config: Config, repository: Path = ROOT) -> Table:
    """Returns a table of all versions and their state, newest version first."""
    storage = open_storage(config.registry.store)
    tags, stored = read_tags(repository), versions(storage)
    stages = {stage: read_stage(storage, stage).version for stage in STAGES}
    drawn = Table("version", "stage", "accuracy, %", "data", "commit", "trained", "state")
    for name in sorted({*tags, *stored}, key=number_of, reverse=True):
        tag = tags.get(name)
        manifest = read_version(storage, name) if name in stored else None
        cells = ["", "", "", ""]
        if manifest:
            facts = manifest.manifest
            cells = [
                f"{100 * facts['metrics']['Accuracy']:.2f}",
                facts["data_fingerprint"][:12],
                facts["commit"][:8],
                facts["provenance"]["created"][:10],
            ]
        held = ", ".join(stage for stage, version in stages.items() if version == name)
        drawn.add_row(name, held, *cells, _state(tag, manifest))
    return drawn


def _state(tag: Tag | None, version: Version | None) -> str:
    if version is None:
        return "[red]tag without files[/red]"
    if tag is None:
        return "[yellow]no local tag: git fetch --tags[/yellow]"
    return "complete" if tag.message.get("manifest_sha256") == version.digest else "[red]manifest changed[/red]"


@contextmanager
def _alone(repository: Path) -> Iterator[None]:
    """Locks the registry for other processes of this clone. The store and the Git remote detect other clones."""
    try:
        folder = Path(git(repository, "rev-parse", "--absolute-git-dir"))
    except GitError as error:
        raise RegistryError(f"No Git repository at {repository}. The registry stores versions as Git tags.") from error
    lock = FileLock(folder / "model-registry.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RegistryError(
            "Another process is changing the registry. Run the command again when that process has finished."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _require_clean(repository: Path) -> None:
    changed = git(repository, "status", "--porcelain")
    if changed:
        files = ", ".join(line.split(maxsplit=1)[1] for line in changed.splitlines()[:5])
        raise RegistryError(
            f"Uncommitted changes in {files}. Commit them first: the version must be reproducible from its commit."
        )
    head = git(repository, "rev-parse", "HEAD")
    there = [name for name, tag in read_tags(repository).items() if tag.commit == head]
    if there:
        raise RegistryError(
            f"Commit {head[:8]} already has the version {there[0]}. A commit can have only one version: commit the "
            "changes that led to this model, such as dvc.lock or a setting, and run the command again."
        )


def _require_new(storage: Storage, hashes: dict[str, dict[str, Any]]) -> None:
    for name in versions(storage):
        if read_version(storage, name).manifest["files"][SERVED]["sha256"] == hashes[SERVED]["sha256"]:
            raise RegistryError(f"This model file is already registered as {name}.")


def _claim(storage: Storage, repository: Path, undo: ExitStack) -> str:
    """Reserves the number of the next version, which protects its folder from other registrations."""
    taken = {entry.split("/")[1] for entry in storage.names("versions")} | set(read_tags(repository))
    version = f"v{1 + max((number_of(name) for name in taken), default=0)}"
    claim = f"versions/{version}/claim.json"
    try:
        storage.create(claim, to_json({"id": uuid.uuid4().hex, "created": _now()}).encode())
    except FileExistsInStorageError as error:
        raise RegistryError(
            f"Another registration took {version} at the same time. Run `inv registry.register` again."
        ) from error
    take_back(undo, storage.remove, claim)
    return version


def _put(storage: Storage, path: Path, name: str, undo: ExitStack) -> None:
    take_back(undo, storage.remove, name)
    storage.upload(path, name)


def _wanted(name: str | None, storage: Storage, repository: Path) -> str:
    if name:
        return version_of(repository, name)
    known = sorted({*read_tags(repository), *versions(storage)}, key=number_of)
    if not known:
        raise RegistryError(f"No registered version in {storage.url}. Register one with `inv registry.register`.")
    return known[-1]


def _registered(storage: Storage, repository: Path, name: str) -> Version:
    """Reads a version and checks that its tag and its files exist and match."""
    tags, stored = read_tags(repository), versions(storage)
    if name not in tags and name not in stored:
        known = ", ".join(sorted({*tags, *stored}, key=number_of)) or "none"
        raise RegistryError(f"The version {name!r} does not exist. Registered versions: {known}.")
    if name not in stored:
        raise RegistryError(
            f"{NAME}@{name} has a tag, but its files are not in {storage.url}. Use registry=local, "
            "registry=gcs or registry.store=… to select the store where it was registered."
        )
    if name not in tags:
        raise RegistryError(
            f"{NAME}@{name} has files in {storage.url}, but no local tag. Fetch the tags with `git fetch --tags`."
        )
    version = read_version(storage, name)
    if tags[name].message.get("manifest_sha256") != version.digest:
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
        try:
            require_hash(folder / name, facts["sha256"])
        except RegistryError as error:
            raise RegistryError(
                f"{name} of {version.name} in {storage.url} has changed since the registration. "
                "Do not use this version."
            ) from error
    return folder


def _assign(
    storage: Storage,
    repository: Path,
    stage: str,
    version: Version,
    events: int,
    undo: ExitStack,
    *,
    push: bool,
    **facts: Any,
) -> None:
    """Records the new version of a stage, first as a tag and then in the store, where services read it."""
    record = {"version": version.name, "manifest_sha256": version.digest, "created": _now(), **facts}
    tag_stage(repository, stage, version, record, undo, push=push)
    name = event_name(stage, events + 1)
    try:
        storage.create(name, (to_json({**record, "id": uuid.uuid4().hex}, indent=2) + "\n").encode())
    except FileExistsInStorageError as error:
        raise RegistryError(
            f"Another command changed {stage} at the same time. See `inv registry.list` and run the command again."
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
