"""Registers a model as a new version: files and a manifest in the store, and then a Git tag.

What may happen at the same time, or be killed in between:

- Two registrations never get the same number: each creates the file `claim.json` of its number, which only one can do.
- One model file is never registered twice: a claim names the file, and the registration with the higher number gives
  way to one with a lower number. A claim without a manifest counts for `LEASE`.
- A registration that was killed before its tag is completed by the next registration of the same file.
"""

import hashlib
import json
import logging
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from src.mlops import ROOT
from src.mlops.config import Config
from src.mlops.errors import BusyError, FileExistsInStorageError, GitError, MissingFileError, RegistryError
from src.mlops.evaluation.measurements import read_measurements
from src.mlops.inference.classifier import Classifier
from src.mlops.io.files import sha256, to_json
from src.mlops.io.git import git
from src.mlops.io.storage import Storage, open_storage
from src.mlops.modelfile.store import FILES, MANIFEST, SERVED, Version, model_name, number_of, read_version, versions
from src.mlops.registry.tags import REMOTE, add_tag, alone, now, take_back, version_tags
from src.mlops.registry.wandb import publish_model

logger = logging.getLogger(__name__)
LEASE = timedelta(minutes=15)  # much longer than a registration takes; after it, an unfinished one counts as killed


def register(config: Config, repository: Path = ROOT, *, push: bool = False, commit: str = "HEAD") -> str:
    """Registers the model at `config.ckpt_path` as the next version.

    Uploads the files to the store and tags the commit. A commit may have several versions.

    Args:
        config: `registry.store` is the store, `evaluation.reports_dir` is the folder of the model's metrics.
        repository: The Git repository.
        push: Whether to push the tag to the Git remote `origin`.
        commit: The commit to tag. By default, the checked-out one.

    Returns:
        The version, such as `v3`.

    Raises:
        RegistryError: The repository has uncommitted changes or does not have the commit, the model is already a
            version, another registration runs at the same time, or Git cannot create or push the tag. Nothing is
            registered then.
        CheckpointError: There is no usable checkpoint, or no export of it.
        DataError: The model was not evaluated.
        StorageError: The store cannot be written.
    """
    with alone(repository) as undo:
        commit = require_ready(repository, commit)
        files = {SERVED: config.ckpt_path.with_suffix(".onnx"), FILES[1]: config.ckpt_path}
        classifier = Classifier.load(files[SERVED])
        Classifier.load(files[FILES[1]])
        metrics, robustness = read_measurements(config, classifier)
        storage = open_storage(config.registry.store)
        hashes: dict[str, dict[str, Any]] = {
            name: {"sha256": sha256(path), "bytes": path.stat().st_size} for name, path in files.items()
        }
        name = _claim(storage, repository, hashes[SERVED]["sha256"], undo)
        known = [read_version(storage, each) for each in versions(storage)]
        same = _same_file(known, hashes[SERVED]["sha256"])
        if same:
            _require_killed(repository, same)
            storage.remove(f"versions/{name}/claim.json")
            version = same
        else:
            _require_alone(storage, known, name, hashes[SERVED]["sha256"])
            info = classifier.info
            manifest = {
                "name": model_name(),
                "version": name,
                "created": now(),
                "commit": commit,
                "files": hashes,
                "data_fingerprint": info.provenance["data_fingerprint"],
                "provenance": info.provenance,
                "calibration": info.calibration.to_dict(),
                "config": info.config,
                "metrics": metrics,
                "robustness": robustness,
            }
            version = _upload(storage, name, files, manifest, undo)
        _tag(repository, version, known, undo, push=push)
    publish_model(config, version.name, list(files.values()), version.manifest)
    logger.info(
        "Registered %s@%s with an accuracy of %.2f%% in %s",
        model_name(),
        version.name,
        100 * version.manifest["metrics"]["Accuracy"],
        storage.url,
    )
    return version.name


def registered_as(storage: Storage, digest: str) -> str | None:
    """Returns the version with a model file, by the SHA-256 of its ONNX file; None if there is none."""
    same = _same_file([read_version(storage, each) for each in versions(storage)], digest)
    return same.name if same else None


def require_ready(repository: Path, commit: str = "HEAD") -> str:
    """Checks that a version can be registered from a repository.

    Returns:
        The full hash of the commit.

    Raises:
        RegistryError: There are uncommitted changes, or the commit does not exist.
        GitError: There is no repository.
    """
    changed = git(repository, "status", "--porcelain")
    if changed:
        files = ", ".join(line.split(maxsplit=1)[1] for line in changed.splitlines()[:5])
        raise RegistryError(
            f"Uncommitted changes in {files}. Commit them first: the version must be reproducible from its commit."
        )
    return _resolve(repository, commit)


def _resolve(repository: Path, commit: str) -> str:
    try:
        return git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    except GitError as error:
        raise RegistryError(
            f"The commit {commit} is not in {repository}. Fetch it with `git fetch origin`; in a workflow, check out "
            "the complete history (fetch-depth: 0)."
        ) from error


def _claim(storage: Storage, repository: Path, digest: str, undo: ExitStack) -> str:
    """Reserves the number of the next version, which protects its folder from other registrations."""
    taken = {entry.split("/")[1] for entry in storage.names("versions")} | set(version_tags(repository))
    version = f"v{1 + max((number_of(name) for name in taken), default=0)}"
    claim = f"versions/{version}/claim.json"
    try:
        storage.create(claim, to_json({"id": uuid.uuid4().hex, "created": now(), "sha256": digest}).encode())
    except FileExistsInStorageError as error:
        raise BusyError(
            f"Another registration took {version} at the same time. Run `inv registry.register` again."
        ) from error
    take_back(undo, storage.remove, claim)
    return version


def _same_file(known: Sequence[Version], digest: str) -> Version | None:
    return next((version for version in known if version.manifest["files"][SERVED]["sha256"] == digest), None)


def _require_killed(repository: Path, same: Version) -> None:
    """Checks that the registration of a version ended before its tag, so that it can be completed."""
    name, tag = same.name, f"{model_name()}@{same.name}.0.0"
    if name in version_tags(repository):
        raise RegistryError(f"This model file is already registered as {name}.")
    if _is_recent(same.manifest.get("created")):
        raise BusyError(
            f"This model file is registered as {name} since {same.manifest['created']}, but the tag {tag} is not in "
            f"this clone. Fetch it with `git fetch --tags`. If the registration was killed, run this command again "
            f"after {LEASE.seconds // 60} minutes to complete it."
        )
    if REMOTE in git(repository, "remote").split() and git(
        repository, "ls-remote", "--tags", REMOTE, f"refs/tags/{tag}"
    ):
        raise RegistryError(f"This model file is already registered as {name}. Fetch its tag with `git fetch --tags`.")
    logger.warning("Completing the registration of %s, which was interrupted before its tag", name)


def _require_alone(storage: Storage, known: Sequence[Version], name: str, digest: str) -> None:
    """Checks that no registration with a lower number is in progress for the same file."""
    complete = {version.name for version in known}
    for claim in (entry for entry in storage.names("versions") if entry.endswith("/claim.json")):
        other = claim.split("/")[1]
        if other in complete or number_of(other) >= number_of(name):
            continue
        try:
            facts = json.loads(storage.read(claim))
        except (MissingFileError, ValueError):  # taken back at this moment, or cut off by an earlier release
            continue
        if facts.get("sha256") == digest and _is_recent(facts.get("created")):
            raise BusyError(
                f"This model file is being registered as {other} by another process since {facts['created']}. Run the "
                f"command again later. If that process was killed, it counts for {LEASE.seconds // 60} minutes, or "
                f"until you delete versions/{other} in {storage.url}."
            )


def _is_recent(created: object) -> bool:
    try:
        return datetime.now(UTC) - datetime.fromisoformat(str(created)) < LEASE
    except (ValueError, TypeError):  # TypeError: a time without a zone
        return False


def _upload(storage: Storage, name: str, files: dict[str, Path], manifest: dict[str, Any], undo: ExitStack) -> Version:
    """Uploads the files of a version, and its manifest last."""
    folder = f"versions/{name}"
    for each, path in files.items():
        take_back(undo, storage.remove, f"{folder}/{each}")
        storage.upload(path, f"{folder}/{each}")
    content = (to_json(manifest, indent=2) + "\n").encode()
    storage.create(f"{folder}/{MANIFEST}", content)
    take_back(undo, storage.remove, f"{folder}/{MANIFEST}")
    return Version(name, manifest, hashlib.sha256(content).hexdigest())


def _tag(repository: Path, version: Version, known: Sequence[Version], undo: ExitStack, *, push: bool) -> None:
    facts = {
        "manifest_sha256": version.digest,
        "data_fingerprint": version.manifest["data_fingerprint"],
        "accuracy": version.manifest["metrics"]["Accuracy"],
        **{name: entry["sha256"] for name, entry in version.manifest["files"].items()},
    }
    commit = _resolve(repository, version.manifest["commit"])
    tag = f"{model_name()}@{version.name}.0.0"
    others = {each.manifest["commit"] for each in known if each.name != version.name}
    if commit in others or git(repository, "tag", "--points-at", commit, "--list", f"{model_name()}@v*"):
        # GTO reads only one version per commit, so this one gets a commit of its own, with the same files.
        same = ("commit-tree", f"{commit}^{{tree}}", "-p", commit, "-m", f"Register {tag}, another model of this code")
        commit = git(repository, *same)
    add_tag(repository, tag, commit, facts, undo, push=push)
