"""Registered models from a store that is a folder."""

import hashlib
import json
from pathlib import Path

import pytest

from src.mlops.errors import RegistryError
from src.mlops.io.storage import open_storage
from src.mlops.modelfile.store import event_name, fetch, number_of, read_stage, read_version, versions

MODEL = b"a network"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a store with v1, v2 and v10, where v2 is in production."""
    storage = open_storage(str(tmp_path))
    for name in ("v10", "v1", "v2"):
        files = {"best_model.onnx": {"sha256": hashlib.sha256(MODEL).hexdigest(), "bytes": len(MODEL)}}
        storage.write(f"versions/{name}/best_model.onnx", MODEL)
        storage.write(f"versions/{name}/manifest.json", json.dumps({"files": files}).encode())
    for number, name in enumerate(("v1", "v2"), 1):
        event = {"event": "promote", "version": name, "manifest_sha256": read_version(storage, name).digest}
        storage.write(event_name("production", number), json.dumps(event).encode())
    monkeypatch.setenv("MLOPS_MODEL_STORE", str(tmp_path))
    return tmp_path


def test_versions_are_sorted_by_number(store: Path) -> None:
    assert versions(open_storage(str(store))) == ["v1", "v2", "v10"]
    assert number_of("v3") == number_of("v3.0.0") == 3


def test_a_stage_has_the_version_that_was_promoted_last(store: Path) -> None:
    storage = open_storage(str(store))
    assert read_stage(storage, "production").history == ["v1", "v2"]
    storage.write(event_name("production", 3), b'{"event": "rollback"}')
    assert read_stage(storage, "production").version == "v1"
    assert read_stage(storage, "staging").version is None


@pytest.mark.parametrize(
    ("reference", "version"), [("models:/gtsrb@production", "v2"), ("gtsrb@v10", "v10"), ("gtsrb@v1", "v1")]
)
def test_a_reference_names_a_file(store: Path, reference: str, version: str) -> None:
    assert fetch(reference) == store / "versions" / version / "best_model.onnx"


@pytest.mark.parametrize("reference", ["gtsrb@staging", "gtsrb@v3", "gtsrb@latest", "others@v1"])
def test_a_reference_that_does_not_exist(store: Path, reference: str) -> None:
    with pytest.raises(RegistryError):
        fetch(reference)


def test_a_file_that_is_not_the_registered_one(store: Path) -> None:
    (store / "versions/v2/best_model.onnx").write_bytes(b"another network")
    with pytest.raises(RegistryError, match="SHA-256"):
        fetch("gtsrb@production")
    (store / "versions/v2/best_model.onnx").unlink()
    with pytest.raises(RegistryError, match=r"best_model\.onnx"):
        fetch("gtsrb@production")


@pytest.mark.parametrize("content", [b"no JSON", b'{"event": "promote"}', b'{"event": "rollback"}'])
def test_a_corrupted_stage(store: Path, content: bytes) -> None:
    open_storage(str(store)).write(event_name("staging", 1), content)
    with pytest.raises(RegistryError, match="staging"):
        read_stage(open_storage(str(store)), "staging")
