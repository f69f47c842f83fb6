"""Registered versions of the model, as files: what serving reads, without Git and without torch.

A store is a folder or a `gs://` URL (`storage.py`) that only ever grows:

    versions/v3/claim.json          who took the number
    versions/v3/best_model.onnx     and best_model.pth
    versions/v3/manifest.json       hashes, metrics, config and origin; written last, so that with it all is there
    stages/production/00007.json    one file for each promotion or rollback; the last one tells what production is
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
from src.mlops.errors import MissingFileError, RegistryError, StorageError, UnreachableError
from src.mlops.files import write_atomically
from src.mlops.storage import BUCKET, Folder, Storage, open_storage, sha256, split_url

logger = logging.getLogger(__name__)
NAME = "gtsrb"
STAGES = ("staging", "production")
SCHEME = "models:/"
STORE = ("MLOPS_MODEL_STORE", "models/registry")  # variable of the environment, and what holds without it
CACHE = ("MLOPS_MODEL_CACHE", "models/cache")
MANIFEST = "manifest.json"
SERVED = "best_model.onnx"
FILES = (SERVED, "best_model.pth")
_REFERENCE = re.compile(rf"(?:{SCHEME})?(?P<name>[\w-]+)@(?P<what>[\w.-]+)")
_VERSION = re.compile(r"v(?P<number>[1-9]\d*)(?:\.0\.0)?")  # GTO's tags are semantic versions: v3 is v3.0.0 there


@dataclass(frozen=True)
class Version:
    """What the manifest of one version says.

    Attributes:
        name: Such as `v3`.
        manifest: `files` with `sha256` and `bytes` by name, `metrics`, `robustness`, `config`, `provenance`,
            `commit`, `data_fingerprint`, `created`.
        digest: SHA-256 of the manifest itself.
    """

    name: str
    manifest: dict[str, Any]
    digest: str


@dataclass(frozen=True)
class Stage:
    """What a stage is, after all promotions and rollbacks.

    Attributes:
        version: The version in it; None before the first promotion.
        digest: SHA-256 of that version's manifest.
        history: The versions that were promoted and not rolled back, oldest first, the current one last.
        events: How many promotions and rollbacks there were.
    """

    version: str | None
    digest: str | None
    history: list[str]
    events: int


def is_reference(name: str) -> bool:
    """Tells whether a model is named by the registry or a bucket rather than by a path."""
    return name.startswith((SCHEME, BUCKET)) or bool(_REFERENCE.fullmatch(name))


def fetch(reference: str) -> Path:
    """Finds the model file that a reference names, and checks it by its hash.

    Args:
        reference: `models:/gtsrb@production`, `gtsrb@staging`, `gtsrb@v3`; or the `gs://` URL of a version's folder or
            of an .onnx file. `MLOPS_MODEL_STORE` is the store (a folder or a `gs://` URL).

    Returns:
        The file in the store, or from a bucket its copy below `MLOPS_MODEL_CACHE`. When the bucket cannot be reached,
        that is the copy of what the reference meant when it last could.

    Raises:
        RegistryError: The reference names nothing, a file is missing, or its hash is another than was registered.
        StorageError: The bucket cannot be reached and there is no copy, or a copy cannot be written.
    """
    storage, what = _locate(reference)
    if isinstance(storage, Folder):
        folder, expected = _look_up(storage, what)
        path = storage.path / folder / SERVED
        require_hash(path, expected)
        return path
    cache = ROOT / os.environ.get(CACHE[0], CACHE[1])
    note = cache / "references" / f"{hashlib.sha256(f'{storage.url} {what}'.encode()).hexdigest()[:16]}.json"
    try:
        folder, expected = _look_up(storage, what)
        path = _cached(storage, folder, expected, cache)
    except UnreachableError as error:
        return _recall(note, cache, reference, error)
    _keep(note, json.dumps({"reference": reference, "sha256": expected}).encode())
    return path


def read_version(storage: Storage, name: str) -> Version:
    """Reads the manifest of a version.

    Raises:
        RegistryError: There is no such version, or its manifest is damaged.
    """
    try:
        content = storage.read(f"versions/{name}/{MANIFEST}")
    except MissingFileError as error:
        known = ", ".join(versions(storage)) or "none"
        raise RegistryError(f"expected the version {name} in {storage.url}, found {known}.") from error
    return _parse(storage, name, content)


def versions(storage: Storage) -> list[str]:
    """Returns the complete versions, oldest first."""
    found = {name.split("/")[1] for name in storage.names("versions") if name.endswith(f"/{MANIFEST}")}
    return sorted(filter(_VERSION.fullmatch, found), key=number_of)


def number_of(version: str) -> int:
    """Returns the number of a version: 3 for v3, and for v3.0.0, as its tag says.

    Raises:
        RegistryError: It is no version.
    """
    found = _VERSION.fullmatch(version)
    if not found:
        raise RegistryError(f"expected a version such as v3, found {version!r}.")
    return int(found["number"])


def read_stage(storage: Storage, stage: str) -> Stage:
    """Tells what is in a stage, from all that happened to it.

    Raises:
        RegistryError: There is no such stage, or its files are damaged.
    """
    if stage not in STAGES:
        raise RegistryError(f"expected the stage {' or '.join(STAGES)}, found {stage!r}.")
    names = [name for name in storage.names(f"stages/{stage}") if name.endswith(".json")]
    history: list[tuple[str, str]] = []
    for name in names:
        try:
            event = json.loads(storage.read(name))
            if event["event"] == "rollback":
                history.pop()
            else:
                history.append((event["version"], event["manifest_sha256"]))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise RegistryError(
                f"expected a promotion or a rollback in {storage.url}/{name}, found: {error!r}."
            ) from error
    version, digest = history[-1] if history else (None, None)
    return Stage(version, digest, [name for name, _ in history], len(names))


def event_name(stage: str, number: int) -> str:
    """Returns where the promotion or rollback of that number is noted; the first is 1."""
    return f"stages/{stage}/{number:05d}.json"


def require_hash(path: Path, expected: str) -> None:
    """Refuses a file that is not the one that was registered.

    Raises:
        RegistryError: It is missing or has another SHA-256.
    """
    try:
        found = sha256(path)
    except OSError as error:
        raise RegistryError(f"expected a registered model file at {path}, found: {error.strerror}.") from error
    if found != expected:
        raise RegistryError(
            f"expected {path} with the SHA-256 {expected[:12]}…, as it was registered, found {found[:12]}…. "
            "Restore the file, or use another version: `inv registry` lists them."
        )


def _locate(reference: str) -> tuple[Storage, str]:
    """Returns the store of a reference, and in it a stage, a version, or the name of a file."""
    if reference.startswith(BUCKET):
        if not reference.endswith(".onnx"):
            return open_storage(reference), SERVED
        url, name = split_url(reference)
        return open_storage(url), name
    found = _REFERENCE.fullmatch(reference)
    if not found or found["name"] != NAME:
        raise RegistryError(
            f"expected a model such as {SCHEME}{NAME}@production, {NAME}@v3, {BUCKET}… or a path, found {reference!r}."
        )
    what = found["what"]
    if what not in STAGES:
        what = f"v{number_of(what)}"
    return open_storage(os.environ.get(STORE[0]) or STORE[1]), what


def _look_up(storage: Storage, what: str) -> tuple[str, str]:
    """Returns the folder of a version in a store, and the hash that its model must have."""
    if what.endswith(".onnx"):  # the URL of a file, or of a folder of files
        return "", _by_url(storage, what)
    version = what
    digest = None
    if what in STAGES:
        stage = read_stage(storage, what)
        if stage.version is None:
            raise RegistryError(
                f"expected a version in {what} of {storage.url}, found none. Promote one: `inv promote --stage {what}`."
            )
        version, digest = stage.version, stage.digest
    found = read_version(storage, version)
    if digest not in (None, found.digest):
        raise RegistryError(
            f"expected the manifest of {version} in {storage.url} as it was promoted, with the SHA-256 "
            f"{str(digest)[:12]}…, found {found.digest[:12]}…."
        )
    return f"versions/{version}", _hash_of(found, SERVED, storage)


def _by_url(storage: Storage, name: str) -> str:
    try:
        version = _parse(storage, storage.url, storage.read(MANIFEST))
    except MissingFileError as error:
        raise RegistryError(
            f"expected {MANIFEST} beside {storage.url}/{name}, whose hashes say what the file must be, found none. "
            f"Name a registered version such as {BUCKET}…/versions/v3."
        ) from error
    return _hash_of(version, name, storage)


def _parse(storage: Storage, name: str, content: bytes) -> Version:
    try:
        manifest = json.loads(content)
        for file in manifest["files"].values():
            re.compile("[0-9a-f]{64}").fullmatch(file["sha256"]).group()  # type: ignore[union-attr]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError(
            f"expected the manifest of {name} in {storage.url}, found a damaged one: {error!r}."
        ) from error
    return Version(name, manifest, hashlib.sha256(content).hexdigest())


def _hash_of(version: Version, name: str, storage: Storage) -> str:
    if name not in version.manifest["files"]:
        raise RegistryError(f"expected {name} among the files of {version.name} in {storage.url}, found none.")
    return str(version.manifest["files"][name]["sha256"])


def _cached(storage: Storage, folder: str, expected: str, cache: Path) -> Path:
    path = cache / expected / SERVED
    if path.is_file() and sha256(path) == expected:
        return path
    name = f"{folder}/{SERVED}".lstrip("/")
    try:
        content = storage.read(name)
    except MissingFileError as error:
        raise RegistryError(f"expected {storage.url}/{name}, which its manifest names, found none.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise RegistryError(
            f"expected {storage.url}/{name} with the SHA-256 {expected[:12]}…, as it was registered, found "
            f"{found[:12]}…. Nothing was kept of it. Use another version: `inv registry` lists them."
        )
    _keep(path, content)
    logger.info("fetched %s/%s into %s", storage.url, name, path)
    return path


def _keep(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise StorageError(
            f"expected to write {path}, found: {error.strerror}. Name a folder for copies of models that can be "
            f"written: {CACHE[0]}."
        ) from error


def _recall(note: Path, cache: Path, reference: str, error: StorageError) -> Path:
    """Finds what a reference meant when its bucket could last be reached."""
    try:
        expected = str(json.loads(note.read_text())["sha256"])
        path = cache / expected / SERVED
        require_hash(path, expected)
    except (OSError, ValueError, KeyError, TypeError, RegistryError):
        raise error from None
    logger.warning("using the copy of %s that was fetched before: %s", reference, error)
    return path
