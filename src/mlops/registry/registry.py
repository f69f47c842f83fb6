"""Versions of the model as Git tags, their files in a store: `inv register`, `inv promote`, `inv rollback`.

A version is a tag `gtsrb@v3.0.0` and the folder `versions/v3` of the store; a promotion is a tag
`gtsrb#production#5` and a file in `stages/production`. GTO writes the tags, `model_store.py` reads the files. What
fails half-way is taken back, and whatever is visible to services changes last.
"""

import hashlib
import json
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
from src.mlops.card import read_measurements
from src.mlops.config import Config, hydra_main
from src.mlops.errors import FileExistsInStorageError, GateError, MissingFileError, RegistryError
from src.mlops.gate import Check, run_gate, show
from src.mlops.git_tags import Tag, git, read_tags, tag_stage, tag_version, take_back, version_of
from src.mlops.inference import Classifier
from src.mlops.model_store import (
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
from src.mlops.storage import Storage, open_storage, sha256
from src.mlops.tracking import publish_model

logger = logging.getLogger("src.mlops.registry")


def register(config: Config, repository: Path = ROOT) -> str:
    """Makes the model at `config.ckpt_path` the next version: files into the store, a tag on the current commit.

    Args:
        config: `registry.store` is the store, `evaluation.reports_dir` holds the model's metrics.
        repository: The Git repository.

    Returns:
        The version, such as `v3`.

    Raises:
        RegistryError: Files of the repository are not committed, the commit or the model is a version already, somebody
            else registers at the same time, or Git refuses the tag. Nothing was registered.
        CheckpointError: There is no usable model, or no export of it.
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
        content = (json.dumps(manifest, indent=2) + "\n").encode()
        storage.create(f"versions/{version}/{MANIFEST}", content)
        take_back(undo, storage.remove, f"versions/{version}/{MANIFEST}")
        facts = {
            "manifest_sha256": hashlib.sha256(content).hexdigest(),
            "data_fingerprint": manifest["data_fingerprint"],
            "accuracy": metrics["Accuracy"],
            **{name: entry["sha256"] for name, entry in hashes.items()},
        }
        tag_version(repository, version, facts, undo, push=config.registry.push)
        undo.pop_all()
    publish_model(config, version, list(files.values()), manifest)
    logger.info("registered %s@%s: accuracy %.2f %%, in %s", NAME, version, 100 * metrics["Accuracy"], storage.url)
    return version


def promote(config: Config, repository: Path = ROOT) -> tuple[str, list[Check]]:
    """Puts a version into a stage, if it passes the gate.

    Args:
        config: `registry.version` (null is the newest) and `registry.stage`; `gate` has the limits.
        repository: The Git repository.

    Returns:
        The version and the gate's checks.

    Raises:
        GateError: The gate refuses, and `registry.force` is not set.
        RegistryError: The version is unknown, its files are missing or others than were registered, it is in the stage
            already, or somebody else promotes at the same time. The stage is as it was.
        StorageError: The store cannot be used.
    """
    storage = open_storage(config.registry.store)
    stage = config.registry.stage
    with _alone(repository), ExitStack() as undo, tempfile.TemporaryDirectory() as work:
        name = _wanted(config, storage, repository)
        version = _registered(storage, repository, name)
        before = read_stage(storage, stage)
        if before.version == name:
            raise RegistryError(
                f"expected another version than the one in {stage}, found {name}, which is in it already."
            )
        candidate = _fetch(storage, version, Path(work, "candidate"))
        in_production = read_stage(storage, "production").version
        rival = None
        if in_production not in (None, name):
            rival = _fetch(storage, read_version(storage, str(in_production)), Path(work, "production"))
        checks = run_gate(config, candidate, rival, version.manifest["robustness"])
        Console(stderr=True).print(show(checks))
        failed = [check.name for check in checks if not check.passed]
        if failed and not config.registry.force:
            raise GateError(
                f"expected {name} to pass the gate for {stage}, found that it fails: {', '.join(failed)}. Limits are "
                "in configshydra/gate/; `inv promote --force` overrides them, and is recorded."
            )
        _assign(storage, repository, stage, version, before.events, undo, push=config.registry.push, event="promote",
                previous=before.version, forced=bool(failed), checks=[check.to_dict() for check in checks])  # fmt: skip
        undo.pop_all()
    publish_model(config, name, [], version.manifest, stage)
    logger.info("%s@%s is in %s%s", NAME, name, stage, f", by force: {', '.join(failed)}" if failed else "")
    return name, checks


def rollback(config: Config, repository: Path = ROOT) -> str:
    """Puts the version that was in a stage before the current one back into it. It passed the gate then.

    Returns:
        The version.

    Raises:
        RegistryError: There was none before, its files are missing or others than were registered, or somebody else
            changes the stage at the same time. The stage is as it was.
        StorageError: The store cannot be used.
    """
    storage = open_storage(config.registry.store)
    stage = config.registry.stage
    with _alone(repository), ExitStack() as undo, tempfile.TemporaryDirectory() as work:
        now = read_stage(storage, stage)
        if len(now.history) < 2:
            raise RegistryError(
                f"expected a former version to go back to in {stage}, found {now.version or 'none'} only."
            )
        version = _registered(storage, repository, now.history[-2])
        _fetch(storage, version, Path(work))
        _assign(storage, repository, stage, version, now.events, undo, push=config.registry.push, event="rollback",
                previous=now.version, forced=False, checks=[])  # fmt: skip
        undo.pop_all()
    publish_model(config, version.name, [], version.manifest, stage)
    logger.info("%s is back to %s@%s, from %s", stage, NAME, version.name, now.version)
    return version.name


def pull(config: Config, repository: Path = ROOT) -> Path:
    """Fetches the files of a version to `config.ckpt_path` and beside it, checked.

    Args:
        config: `registry.version` is the version, or a tag of the registry; null is the newest.
        repository: The Git repository.

    Returns:
        The folder of the files.

    Raises:
        RegistryError: The version is unknown, or its files are missing or others than were registered. What was in the
            folder is as it was.
        StorageError: The store cannot be read.
    """
    storage = open_storage(config.registry.store)
    version = _registered(storage, repository, _wanted(config, storage, repository))
    folder = config.ckpt_path.parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pull-") as work:
        _fetch(storage, version, Path(work))
        for name in version.manifest["files"]:
            Path(work, name).replace(folder / name)
    logger.info("%s@%s is in %s", NAME, version.name, folder)
    return folder


def table(config: Config, repository: Path = ROOT) -> Table:
    """Draws all versions, newest first, with what is wrong with them."""
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
        return "[yellow]no tag here: git fetch --tags[/yellow]"
    return "complete" if tag.message.get("manifest_sha256") == version.digest else "[red]manifest changed[/red]"


@contextmanager
def _alone(repository: Path) -> Iterator[None]:
    """Keeps two processes of one clone from changing the registry at once; clones meet at the store and at Git."""
    try:
        folder = Path(git(repository, "rev-parse", "--absolute-git-dir"))
    except RegistryError as error:
        raise RegistryError(f"expected a Git repository at {repository}, to keep versions in, found none.") from error
    lock = FileLock(folder / "model-registry.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RegistryError(
            "expected to be alone in changing the registry, found another process that does. Run it again "
            "when it is done."
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
            f"expected all files committed, so that the version can be made again, found changes: {files}."
        )
    head = git(repository, "rev-parse", "HEAD")
    there = [name for name, tag in read_tags(repository).items() if tag.commit == head]
    if there:
        raise RegistryError(
            f"expected a commit without a version, found {there[0]} at {head[:8]}. Commit what makes this model "
            "another one, such as dvc.lock or a setting, and register then."
        )


def _require_new(storage: Storage, hashes: dict[str, dict[str, Any]]) -> None:
    for name in versions(storage):
        if read_version(storage, name).manifest["files"][SERVED]["sha256"] == hashes[SERVED]["sha256"]:
            raise RegistryError(f"expected a model that is no version yet, found {name}, which is this very file.")


def _claim(storage: Storage, repository: Path, undo: ExitStack) -> str:
    """Takes the next number, so that nobody else writes to its folder."""
    taken = {entry.split("/")[1] for entry in storage.names("versions")} | set(read_tags(repository))
    version = f"v{1 + max((number_of(name) for name in taken), default=0)}"
    claim = f"versions/{version}/claim.json"
    try:
        storage.create(claim, json.dumps({"id": uuid.uuid4().hex, "created": _now()}).encode())
    except FileExistsInStorageError as error:
        raise RegistryError(
            f"expected {version} to be free, found that somebody else took it meanwhile. Run `inv register` again."
        ) from error
    take_back(undo, storage.remove, claim)
    return version


def _put(storage: Storage, path: Path, name: str, undo: ExitStack) -> None:
    take_back(undo, storage.remove, name)
    storage.upload(path, name)


def _wanted(config: Config, storage: Storage, repository: Path) -> str:
    if config.registry.version:
        return version_of(repository, config.registry.version)
    known = sorted({*read_tags(repository), *versions(storage)}, key=number_of)
    if not known:
        raise RegistryError(
            f"expected a registered version, found none in {storage.url}. Register one: `inv register`."
        )
    return known[-1]


def _registered(storage: Storage, repository: Path, name: str) -> Version:
    """Reads a version of which tag and files are there and agree."""
    tags, stored = read_tags(repository), versions(storage)
    if name not in tags and name not in stored:
        known = ", ".join(sorted({*tags, *stored}, key=number_of)) or "none"
        raise RegistryError(f"expected a registered version, found {name!r}; there are: {known}.")
    if name not in stored:
        raise RegistryError(
            f"expected the files of {NAME}@{name}, which has a tag, in {storage.url}, found none. Name the store that "
            "it was registered in: registry=local, registry=gcs or registry.store=…"
        )
    if name not in tags:
        raise RegistryError(
            f"expected a tag of {NAME}@{name}, whose files are in {storage.url}, found none. `git fetch --tags`."
        )
    version = read_version(storage, name)
    if tags[name].message.get("manifest_sha256") != version.digest:
        raise RegistryError(
            f"expected the manifest of {name} in {storage.url} as it was registered (see the tag), found another one. "
            "Do not use this version; register the model anew."
        )
    return version


def _fetch(storage: Storage, version: Version, folder: Path) -> Path:
    """Downloads the files of a version and checks them."""
    for name, facts in version.manifest["files"].items():
        try:
            storage.download(f"versions/{version.name}/{name}", folder / name)
        except MissingFileError as error:
            raise RegistryError(f"expected {name} of {version.name} in {storage.url}, found none.") from error
        try:
            require_hash(folder / name, facts["sha256"])
        except RegistryError as error:
            raise RegistryError(
                f"expected {name} of {version.name} in {storage.url} as it was registered, found another file. "
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
    """Records what a stage is from now on: as a tag first, then where services look."""
    record = {"version": version.name, "manifest_sha256": version.digest, "created": _now(), **facts}
    tag_stage(repository, stage, version, record, undo, push=push)
    name = event_name(stage, events + 1)
    try:
        storage.create(name, (json.dumps({**record, "id": uuid.uuid4().hex}, indent=2) + "\n").encode())
    except FileExistsInStorageError as error:
        raise RegistryError(
            f"expected {stage} to stay as it is while this command runs, found that somebody else changed it. "
            "See `inv registry` and run it again."
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def main(config: Config) -> None:
    """Does what `registry.action` says."""
    if config.registry.action == "register":
        register(config)
    elif config.registry.action == "promote":
        promote(config)
    elif config.registry.action == "rollback":
        rollback(config)
    elif config.registry.action == "pull":
        pull(config)
    else:
        Console().print(table(config))


if __name__ == "__main__":
    hydra_main(main)
