"""Registered models from a store that is a folder."""

import hashlib
import json
from pathlib import Path

import pytest

from src.mlops.errors import RegistryError
from src.mlops.io.storage import Storage, open_storage
from src.mlops.modelfile.store import fetch, number_of, read_stage, read_version, stage_file, versions
from src.mlops.project import load_project

MODEL = b"a network"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a store with v1, v2 and v10, where v2 is in production."""
    storage = open_storage(str(tmp_path))
    for name in ("v10", "v1", "v2"):
        files = {"best_model.onnx": {"sha256": hashlib.sha256(MODEL).hexdigest(), "bytes": len(MODEL)}}
        storage.write(f"versions/{name}/best_model.onnx", MODEL)
        storage.write(f"versions/{name}/manifest.json", json.dumps({"files": files}).encode())
    promote(storage, "v2")
    monkeypatch.setenv("MLOPS_MODEL_STORE", str(tmp_path))
    return tmp_path


def promote(storage: Storage, version: str) -> None:
    record = {"tag": "gtsrb#production#1", "version": version, "manifest_sha256": read_version(storage, version).digest}
    storage.write(stage_file("production"), json.dumps(record).encode())


def test_the_name_of_the_model_comes_from_the_project(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    another = load_project().model_copy(update={"registry": "another"})
    monkeypatch.setattr("src.mlops.modelfile.store.load_project", lambda: another)
    assert fetch("models:/another@production") == store / "versions" / "v2" / "best_model.onnx"
    with pytest.raises(RegistryError, match=r"models:/another@production or another@v3"):
        fetch("gtsrb@production")


def test_versions_are_sorted_by_number(store: Path) -> None:
    assert versions(open_storage(str(store))) == ["v1", "v2", "v10"]
    assert number_of("v3") == number_of("v3.0.0") == 3


def test_a_stage_has_the_version_that_was_promoted_last(store: Path) -> None:
    storage = open_storage(str(store))
    promote(storage, "v1")
    assert fetch("gtsrb@production") == store / "versions" / "v1" / "best_model.onnx"
    assert read_stage(storage, "staging") is None


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


@pytest.mark.parametrize("content", [b"no JSON", b'{"version": "v1"}', b'{"version": 1}', b"[]", b"\xff"])
def test_a_corrupted_stage(store: Path, content: bytes) -> None:
    open_storage(str(store)).write(stage_file("staging"), content)
    with pytest.raises(RegistryError, match=r"stages/staging\.json is corrupted"):
        read_stage(open_storage(str(store)), "staging")
