"""Finds and reads registered versions of the model. Serving uses this module, so it needs neither Git nor torch.

A store is a folder or a `gs://` URL (`io/storage.py`):

    versions/v3/claim.json          reserves the version number
    versions/v3/best_model.onnx     and best_model.pth
    versions/v3/manifest.json       hashes, metrics, config and origin; written last, so it marks a complete version
    stages/production.json          the version in a stage; a copy of the newest Git tag, since services have no Git
"""

import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.mlops import ROOT
from src.mlops.errors import MissingFileError, NotPromotedError, RegistryError, StorageError, UnreachableError
from src.mlops.io.files import sha256, to_json, write_atomically
from src.mlops.io.storage import BUCKET, Folder, Storage, open_storage, split_url
from src.mlops.project import load_project

logger = logging.getLogger(__name__)
STAGES = ("staging", "production")
SCHEME = "models:/"
STORE = ("MLOPS_MODEL_STORE", "models/registry")  # environment variable, and its default
CACHE = ("MLOPS_MODEL_CACHE", "models/cache")
MANIFEST = "manifest.json"
SERVED = "best_model.onnx"
FILES = (SERVED, "best_model.pth")
_REFERENCE = re.compile(rf"(?:{SCHEME})?(?P<name>[\w-]+)@(?P<what>[\w.-]+)")
_VERSION = re.compile(r"v(?P<number>[1-9]\d*)(?:\.0\.0)?")  # GTO tags v3 as v3.0.0, a semantic version


@dataclass(frozen=True)
class Version:
    """The manifest of one version.

    Attributes:
        name: Such as `v3`.
        manifest: `files` with `sha256` and `bytes` by name, `metrics`, `robustness`, `config`, `provenance`,
            `commit`, `data_fingerprint`, `created`.
        digest: SHA-256 of the manifest file.
    """

    name: str
    manifest: dict[str, Any]
    digest: str


@dataclass(frozen=True)
class Stage:
    """The version in a stage.

    Attributes:
        version: Such as `v3`.
        digest: SHA-256 of the manifest of the version.
        tag: The Git tag of the promotion or rollback; None in stores of earlier releases.
    """

    version: str
    digest: str
    tag: str | None


def model_name() -> str:
    """Returns the name of the model in references and tags, such as `gtsrb`."""
    return load_project().registry


def is_reference(name: str) -> bool:
    """Returns whether the name of a model refers to the registry or a bucket, and is not a path."""
    return name.startswith((SCHEME, BUCKET)) or bool(_REFERENCE.fullmatch(name))


def fetch(reference: str) -> Path:
    """Returns the path of the model file that a reference names, after checking its hash.

    Args:
        reference: `models:/gtsrb@production`, `gtsrb@staging`, `gtsrb@v3`, or the `gs://` URL of a version folder or an
            .onnx file. The environment variable `MLOPS_MODEL_STORE` sets the store (a folder or a `gs://` URL).

    Returns:
        The path of the file in the store. If the store is a bucket, the path of a copy below `MLOPS_MODEL_CACHE`. If
        the bucket cannot be reached, this is the copy from the last time that it could be reached.

    Raises:
        NotPromotedError: The reference is a stage, and no version was ever promoted to it.
        RegistryError: The reference does not exist, a file is missing, or its hash is not the registered one.
        StorageError: The bucket cannot be reached and there is no copy, or the copy cannot be written.
    """
    storage, what = _locate(reference)
    if isinstance(storage, Folder):
        folder, expected = _look_up(storage, what)
        path = storage.path / folder / SERVED
        require_hash(path, expected)
        return path
    cache = ROOT / Path(os.environ.get(CACHE[0]) or CACHE[1]).expanduser()
    note = cache / "references" / f"{hashlib.sha256(f'{storage.url} {what}'.encode()).hexdigest()[:16]}.json"
    try:
        folder, expected = _look_up(storage, what)
        path = _cached(storage, folder, expected, cache)
    except UnreachableError as error:
        return _recall(note, cache, reference, error)
    except NotPromotedError as error:
        if note.is_file():  # a version was promoted, so the file of the stage is lost
            raise RegistryError(
                f"{storage.url}/{stage_file(what)} has disappeared since this machine read it. Restore it from the Git "
                "tags with `inv registry.sync`."
            ) from error
        raise
    _keep(note, to_json({"reference": reference, "sha256": expected}).encode())
    return path


def read_version(storage: Storage, name: str) -> Version:
    """Reads the manifest of a version.

    Raises:
        RegistryError: The version does not exist, or its manifest is corrupted.
    """
    try:
        content = storage.read(f"versions/{name}/{MANIFEST}")
    except MissingFileError as error:
        known = ", ".join(versions(storage)) or "none"
        raise RegistryError(
            f"Version {name} does not exist in {storage.url}, which has these versions: {known}. If it was registered "
            f"in another store, select that one ({STORE[0]}, registry.store or registry=gcs), or copy the files."
        ) from error
    return _parse(storage, name, content)


def versions(storage: Storage) -> list[str]:
    """Returns the complete versions, oldest first."""
    found = {name.split("/")[1] for name in storage.names("versions") if name.endswith(f"/{MANIFEST}")}
    return sorted(filter(_VERSION.fullmatch, found), key=number_of)


def number_of(version: str) -> int:
    """Returns the number of a version: 3 for v3, and for v3.0.0 as in its tag.

    Raises:
        RegistryError: The name is not a version.
    """
    found = _VERSION.fullmatch(version)
    if not found:
        raise RegistryError(f"Invalid version {version!r}: use a name such as v3.")
    return int(found["number"])


def stage_file(stage: str) -> str:
    """Returns the name of the file with the version in a stage."""
    return f"stages/{stage}.json"


def read_stage(storage: Storage, stage: str) -> Stage | None:
    """Returns the version in a stage, or None if no version was promoted to it.

    Raises:
        RegistryError: The file of the stage is corrupted.
    """
    name = stage_file(stage)
    try:
        content = storage.read(name)
    except MissingFileError:
        records = storage.names(f"stages/{stage}")  # earlier releases wrote one file per promotion or rollback
        if not records:
            return None
        name = records[-1]
        content = storage.read(name)
    try:
        record = json.loads(content)
        return Stage(f"v{number_of(record['version'])}", str(record["manifest_sha256"]), record.get("tag"))
    except (ValueError, KeyError, TypeError, RegistryError) as error:
        raise RegistryError(
            f"{storage.url}/{name} is corrupted: {error!r}. Delete it, and restore it from the Git tags with "
            "`inv registry.sync`."
        ) from error


def require_hash(path: Path, expected: str) -> None:
    """Checks that a file is the registered one.

    Raises:
        RegistryError: The file is missing or has another SHA-256.
    """
    try:
        found = sha256(path)
    except OSError as error:
        raise RegistryError(f"Cannot read the registered model file {path}: {error.strerror}.") from error
    if found != expected:
        raise RegistryError(
            f"{path} is not the registered file: its SHA-256 should be {expected[:12]}… but is {found[:12]}…. "
            "Restore the file, or use a different version from `inv registry.list`."
        )


def _locate(reference: str) -> tuple[Storage, str]:
    """Returns the store of a reference, and the stage, version or file name in it."""
    if reference.startswith(BUCKET):
        if not reference.endswith(".onnx"):
            return open_storage(reference), SERVED
        url, name = split_url(reference)
        return open_storage(url), name
    found, name = _REFERENCE.fullmatch(reference), model_name()
    if not found or found["name"] != name:
        raise RegistryError(
            f"{reference!r} does not name a model. Use a name such as {SCHEME}{name}@production or {name}@v3, "
            f"a {BUCKET} URL, or a path."
        )
    what = found["what"]
    if what not in STAGES:
        what = f"v{number_of(what)}"
    return open_storage(os.environ.get(STORE[0]) or STORE[1]), what


def _look_up(storage: Storage, what: str) -> tuple[str, str]:
    """Returns the folder of a version in a store, and the expected hash of its model."""
    if what.endswith(".onnx"):  # the URL of a file, or of a folder of files
        return "", _by_url(storage, what)
    version = what
    digest = None
    if what in STAGES:
        stage = read_stage(storage, what)
        if stage is None:
            raise NotPromotedError(
                f"No version is promoted to {what} in {storage.url}. Promote one with "
                f"`inv registry.promote --stage {what}`."
            )
        version, digest = stage.version, stage.digest
    found = read_version(storage, version)
    if digest not in (None, found.digest):
        raise RegistryError(
            f"The manifest of {version} in {storage.url} has changed since its promotion: its SHA-256 should be "
            f"{str(digest)[:12]}… but is {found.digest[:12]}…."
        )
    return f"versions/{version}", _hash_of(found, SERVED, storage)


def _by_url(storage: Storage, name: str) -> str:
    try:
        version = _parse(storage, storage.url, storage.read(MANIFEST))
    except MissingFileError as error:
        raise RegistryError(
            f"No {MANIFEST} next to {storage.url}/{name}, so the file cannot be verified. Use a registered version "
            f"such as {BUCKET}…/versions/v3."
        ) from error
    return _hash_of(version, name, storage)


def _parse(storage: Storage, name: str, content: bytes) -> Version:
    try:
        manifest = json.loads(content)
        for file in manifest["files"].values():
            re.compile("[0-9a-f]{64}").fullmatch(file["sha256"]).group()  # type: ignore[union-attr]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError(f"The manifest of {name} in {storage.url} is corrupted: {error!r}.") from error
    return Version(name, manifest, hashlib.sha256(content).hexdigest())


def _hash_of(version: Version, name: str, storage: Storage) -> str:
    if name not in version.manifest["files"]:
        raise RegistryError(f"The manifest of {version.name} in {storage.url} does not list the file {name}.")
    return str(version.manifest["files"][name]["sha256"])


def _cached(storage: Storage, folder: str, expected: str, cache: Path) -> Path:
    path = cache / expected / SERVED
    if path.is_file() and sha256(path) == expected:
        return path
    name = f"{folder}/{SERVED}".lstrip("/")
    try:
        content = storage.read(name)
    except MissingFileError as error:
        raise RegistryError(f"{storage.url}/{name} does not exist, although its manifest lists it.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise RegistryError(
            f"{storage.url}/{name} is not the registered file: its SHA-256 should be {expected[:12]}… but is "
            f"{found[:12]}…. The download was discarded. Use a different version from `inv registry.list`."
        )
    _keep(path, content)
    logger.info("Fetched %s/%s to %s", storage.url, name, path)
    return path


def _keep(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise StorageError(
            f"Cannot write {path}: {error.strerror}. Set {CACHE[0]} to a writable folder for cached models."
        ) from error


def _recall(note: Path, cache: Path, reference: str, error: StorageError) -> Path:
    """Returns the copy of a model from the last time that its bucket could be reached."""
    try:
        expected = str(json.loads(note.read_text())["sha256"])
        path = cache / expected / SERVED
        require_hash(path, expected)
    except (OSError, ValueError, KeyError, TypeError, RegistryError):
        raise error from None
    logger.warning("Using the cached copy of %s: %s", reference, error)
    return path
