"""Promotes, rolls back and fetches versions of the model: Git tags, and files in a store.

A version is a tag `gtsrb@v3.0.0` and the folder `versions/v3` of the store (`register.py`). A promotion or rollback is
a tag `gtsrb#production#5`. The tags are authoritative; `stages/production.json` in the store is a copy of the newest
one, for services (`modelfile/store.py`). If a step fails, the steps before it are undone. What services read is written
last.
"""

import logging
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from src.mlops import ROOT
from src.mlops.config import Config
from src.mlops.errors import GateError, MissingFileError, RegistryError
from src.mlops.inference.classifier import Classifier
from src.mlops.io.files import sha256
from src.mlops.io.storage import BUCKET, Storage, open_storage
from src.mlops.modelfile.store import SERVED, STAGES, Version, model_name, number_of, read_version, versions
from src.mlops.registry.gate import Check, run_gate, show
from src.mlops.registry.shadow import shadow_checks
from src.mlops.registry.stages import delete_old_records, read_current, write_stage
from src.mlops.registry.tags import Tag, alone, is_rollback, stage_tags, tag_stage, version_of, version_tags
from src.mlops.registry.wandb import publish_model

logger = logging.getLogger(__name__)


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

    If the store is a bucket, a version must have been in staging before it goes to production.

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
        RegistryError: The version does not exist, its files are missing or changed, it is already in the stage or was
            not in staging, or another promotion runs at the same time. The stage is unchanged then.
        StorageError: The store cannot be used, or the prediction log of the shadow cannot be read.
    """
    storage = open_storage(config.registry.store)
    with alone(repository) as undo, tempfile.TemporaryDirectory() as work:
        version = _registered(storage, repository, wanted)
        name = version.name
        before, production = (read_current(storage, repository, each) for each in (stage, "production"))
        if before.version == name:
            missing = "The store does not have this promotion yet. Write it with `inv registry.sync`."
            raise RegistryError(
                f"{name} is already in {stage}. {'Promote a different version.' if before.synced else missing}"
            )
        if stage == "production":
            _require_staged(storage, repository, name)
        candidate = _fetch(storage, version, Path(work, "candidate"))
        rival = None
        if production.version and production.version != name:
            rival = _fetch(storage, _registered(storage, repository, production.version), Path(work, "production"))
        checks = run_gate(config, candidate, rival, version.manifest["robustness"])
        if stage == "production":
            checks += shadow_checks(config.gate, Classifier.load(candidate / SERVED))
        Console(stderr=True).print(show(checks))
        failed = [check.name for check in checks if not check.passed]
        if failed and not force:
            raise GateError(
                f"{name} failed the gate for {stage}: {', '.join(failed)}. The limits are in configshydra/gate/. "
                "`inv registry.promote --force` overrides them; this is recorded."
            )
        facts = {"event": "promote", "forced": bool(failed), "checks": [asdict(check) for check in checks]}
        tag = tag_stage(repository, stage, version, facts, undo, push=push)
        write_stage(storage, stage, tag, before.state)
    delete_old_records(storage, stage)
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

    If that version had been promoted although the gate failed, the log and the record of the rollback say so.

    Returns:
        The version.

    Raises:
        RegistryError: There is no previous version, its files are missing or changed, or another command changes the
            stage at the same time. The stage is unchanged then.
        StorageError: The store cannot be used.
    """
    storage = open_storage(config.registry.store)
    with alone(repository) as undo, tempfile.TemporaryDirectory() as work:
        before = read_current(storage, repository, stage)
        if len(before.history) < 2:
            raise RegistryError(f"Cannot roll back {stage}: it has no version before {before.version or 'this'}.")
        version = _registered(storage, repository, before.history[-2])
        _fetch(storage, version, Path(work))
        forced = _forced(repository, stage, version.name)
        tag = tag_stage(repository, stage, version, {"event": "rollback", **forced}, undo, push=push)
        write_stage(storage, stage, tag, before.state)
    delete_old_records(storage, stage)
    publish_model(config, version.name, [], version.manifest, stage)
    logger.info("Rolled %s back to %s@%s from %s", stage, model_name(), version.name, before.version)
    if forced:
        failed = [check["name"] for check in forced["checks"] if not check["passed"]]
        logger.warning(
            "%s@%s had been promoted with --force, although these checks failed: %s",
            model_name(),
            version.name,
            ", ".join(failed),
        )
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
    with alone(repository):
        current = {stage: read_current(storage, repository, stage) for stage in STAGES}
        for version in filter(None, (each.version for each in current.values())):
            _registered(storage, repository, version)
        for stage, each in current.items():
            if each.tag:
                write_stage(storage, stage, each.tag, each.state)
                delete_old_records(storage, stage)
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
    stages = {stage: read_current(storage, repository, stage) for stage in STAGES}
    drawn = Table("version", "stage", "accuracy, %", "data", "commit", "trained", "state")
    for name in sorted({*tags, *stored}, key=number_of, reverse=True):
        version = read_version(storage, name) if name in stored else None
        cells = ["", "", "", ""]
        if version:
            facts = version.manifest
            accuracy, trained = facts["metrics"]["Accuracy"], facts["provenance"]["created"]
            cells = [f"{100 * accuracy:.2f}", facts["data_fingerprint"][:12], facts["commit"][:8], trained[:10]]
        held = [
            f"{stage}{' (forced)' if each.tag and each.tag.message.get('forced') else ''}"
            f"{'' if each.synced else ' [red](not in the store yet: inv registry.sync)[/red]'}"
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


def _require_staged(storage: Storage, repository: Path, name: str) -> None:
    """Checks that a version was promoted to staging and not rolled back from it, if the store is a bucket."""
    if storage.url.startswith(BUCKET) and name not in read_current(storage, repository, "staging").history:
        raise RegistryError(
            f"{name} was not in staging, or was rolled back from there. Versions in {storage.url} are tested in "
            f"staging before they go to production: run `inv registry.promote --version {name} --stage staging` first."
        )


def _forced(repository: Path, stage: str, name: str) -> dict[str, Any]:
    """Returns the record of the gate from the last promotion of a version if it was forced, otherwise an empty dict."""
    promotions = [tag.message for tag in stage_tags(repository, stage) if tag.version == name and not is_rollback(tag)]
    last = promotions[-1] if promotions else {}
    return {"forced": True, "checks": last.get("checks", [])} if last.get("forced") else {}


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
