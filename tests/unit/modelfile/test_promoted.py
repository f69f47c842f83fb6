"""The model in a stage: the promoted version, the bundled model while there was none, and never silently another."""

import hashlib
import json
from pathlib import Path

import pytest

from src.mlops import ROOT
from src.mlops.errors import MissingFileError, RegistryError, UnreachableError
from src.mlops.io.storage import open_storage
from src.mlops.modelfile.locate import BUNDLED, locate_model
from tests.helpers.storage_emulator import Cloud

STAGE = "models/stages/production.json"


@pytest.fixture(autouse=True)
def _store(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_MODEL_STORE", "gs://my-project-gtsrb/models")
    monkeypatch.setenv("MLOPS_MODEL_CACHE", str(tmp_path / "cache"))
    for version in ("v1", "v2"):
        files = {"best_model.onnx": {"sha256": hashlib.sha256(version.encode()).hexdigest()}}
        cloud.put(f"models/versions/{version}/manifest.json", json.dumps({"files": files}).encode())
        cloud.put(f"models/versions/{version}/best_model.onnx", version.encode())


def promote(cloud: Cloud, version: str) -> None:
    manifest = cloud.objects()[f"models/versions/{version}/manifest.json"]
    record = {"version": version, "manifest_sha256": hashlib.sha256(manifest).hexdigest()}
    cloud.put(STAGE, json.dumps(record).encode())


def test_the_bundled_model_while_nothing_was_ever_promoted(caplog: pytest.LogCaptureFixture) -> None:
    assert locate_model("production") == ROOT / BUNDLED
    assert "No version was ever promoted to production" in caplog.text


def test_the_promoted_version(cloud: Cloud) -> None:
    for version in ("v1", "v2"):
        promote(cloud, version)
        assert locate_model("production").read_text() == version
    assert locate_model("staging") == ROOT / BUNDLED


def test_an_unreachable_registry_gives_the_cached_version(cloud: Cloud) -> None:
    promote(cloud, "v1")
    locate_model("production")
    cloud.fail("503")
    assert locate_model("production").read_text() == "v1"


def test_an_unreachable_registry_without_a_copy_is_an_error(cloud: Cloud) -> None:
    cloud.fail("503")
    with pytest.raises(UnreachableError):
        locate_model("production")


def test_an_unreadable_stage_is_an_error_although_versions_can_be_read(cloud: Cloud) -> None:
    promote(cloud, "v1")
    cloud.fail("503", part="production.json")
    with pytest.raises(UnreachableError):
        locate_model("production")


def test_a_missing_bucket_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_MODEL_STORE", "gs://no-such-bucket/models")
    with pytest.raises(MissingFileError, match="bucket gs://no-such-bucket does not exist"):
        locate_model("production")


def test_a_stage_that_was_lost_is_an_error(cloud: Cloud) -> None:
    promote(cloud, "v1")
    locate_model("production")
    open_storage("gs://my-project-gtsrb/models").remove("stages/production.json")
    with pytest.raises(RegistryError, match=r"stages/production\.json has disappeared.*inv registry\.sync"):
        locate_model("production")


def test_a_corrupted_stage_is_an_error(cloud: Cloud) -> None:
    cloud.put(STAGE, b"{")
    with pytest.raises(RegistryError, match="is corrupted"):
        locate_model("production")
