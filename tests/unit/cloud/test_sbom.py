"""The software bills of materials of the container images."""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from src.mlops import ROOT
from src.mlops.cloud import sbom
from src.mlops.cloud.sbom import read_sbom
from src.mlops.errors import ConfigError
from src.mlops.io.files import sha256
from tasks import IMAGES

BUNDLED = ROOT / "models/pretrained/signnet.onnx"
LOCKED = {
    (package["name"], package["version"])
    for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    if "version" in package
}
# The training image is built for amd64 only.
FOR_ARM64 = [image for image in IMAGES if image != "train"]


@pytest.fixture(scope="module")
def documents() -> dict[str, dict[str, Any]]:
    return {image: read_sbom(image) for image in IMAGES}


def packages(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [component for component in document["components"] if component["type"] == "library"]


@pytest.mark.parametrize("image", IMAGES)
def test_the_document_is_valid_and_names_the_image(image: str, documents: dict[str, dict[str, Any]]) -> None:
    document = documents[image]
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(json.dumps(document)) is None
    assert document["metadata"]["component"]["name"] == image
    assert document["metadata"]["component"]["type"] == "container"


@pytest.mark.parametrize("image", IMAGES)
def test_packages_are_locked_once_and_with_hashes(image: str, documents: dict[str, dict[str, Any]]) -> None:
    found = packages(documents[image])
    assert {(package["name"], package["version"]) for package in found} <= LOCKED
    assert len({package["name"] for package in found}) == len(found)  # of several versions, the one of this Python
    for package in found:
        assert all(reference["hashes"] for reference in package["externalReferences"]), package["name"]


@pytest.mark.parametrize("image", IMAGES)
def test_dependencies_are_part_of_the_document(image: str, documents: dict[str, dict[str, Any]]) -> None:
    document = documents[image]
    known = {component["bom-ref"] for component in document["components"]}
    for entry in document["dependencies"]:
        assert set(entry["dependsOn"]) <= known
    assert document["metadata"]["component"]["bom-ref"] in {entry["ref"] for entry in document["dependencies"]}


def test_the_packages_of_the_service(documents: dict[str, dict[str, Any]]) -> None:
    names = {package["name"] for package in packages(documents["api"])}
    assert {"fastapi", "onnxruntime", "uvloop", "google-cloud-storage"} <= names
    assert not names & {"rich", "torch", "colorama", "mlops"}  # not installed; colorama is for Windows


def test_training_needs_cuda_on_linux(documents: dict[str, dict[str, Any]]) -> None:
    names = {package["name"] for package in packages(documents["train"])}
    assert {"torch", "nvidia-cudnn-cu13", "triton"} <= names


def test_the_bundled_model_is_listed(documents: dict[str, dict[str, Any]]) -> None:
    (model,) = [part for part in documents["api"]["components"] if part["type"] == "machine-learning-model"]
    assert model["name"] == "models/pretrained/signnet.onnx"
    assert model["hashes"] == [{"alg": "SHA-256", "content": sha256(BUNDLED)}]


def accepted(machine: str) -> set[Tag]:
    """Returns the tags of wheels that Python 3.12 on Debian 12 or newer installs."""
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(36, 16, -1)]
    platforms += [f"manylinux2014_{machine}", f"linux_{machine}"]
    return {*cpython_tags((3, 12), platforms=platforms), *compatible_tags((3, 12), "cp312", platforms)}


@pytest.mark.parametrize("machine", sbom.MACHINES)
@pytest.mark.parametrize("image", FOR_ARM64)
def test_every_package_has_a_wheel(image: str, machine: str, documents: dict[str, dict[str, Any]]) -> None:
    tags = accepted(machine)
    missing = []
    for package in packages(documents[image]):
        files = [reference["url"].rsplit("/", 1)[1] for reference in package["externalReferences"]]
        wheels = [parse_wheel_filename(file)[3] for file in files if file.endswith(".whl")]
        if not any(wheel & tags for wheel in wheels):
            missing.append(package["name"])
    assert not missing  # the images have no compiler


@pytest.fixture
def dockerfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Returns a function that writes the Dockerfile of an image `own`."""

    def write(text: str) -> None:
        (tmp_path / "Dockerfile.own").write_text(text)
        monkeypatch.setattr(sbom, "DOCKERFILES", tmp_path)

    return write


def test_the_groups_and_the_version_of_python_come_from_the_dockerfile(dockerfile: Callable[[str], None]) -> None:
    dockerfile("FROM python:3.11-slim AS a\nRUN uv sync --locked --no-default-groups \\\n  --group gcs && rm x\n")
    found = {package["name"]: package["version"] for package in packages(read_sbom("own"))}
    assert "rich" in found
    assert found["numpy"].startswith("2.4.")  # the last minor version for Python 3.11


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM scratch\nRUN uv sync --locked\n", "has no line with `FROM python:` or with `uv sync`"),
        ("FROM python:3.12-slim\nRUN pip install x\n", "has no line with `FROM python:` or with `uv sync`"),
        ("FROM python:3.12-slim\nRUN uv sync --locked --group nope\n", "`uv export .*--group nope` failed: .*nope"),
    ],
)
def test_unusable_dockerfiles(text: str, message: str, dockerfile: Callable[[str], None]) -> None:
    dockerfile(text)
    with pytest.raises(ConfigError, match=message):
        read_sbom("own")


@pytest.mark.parametrize("image", ["nope", "", "../x", "api\n"])
def test_unknown_images(image: str) -> None:
    with pytest.raises(ConfigError, match=rf"no dockerfiles/Dockerfile\.{re.escape(image)}\. Name one of: .*train"):
        read_sbom(image)


def test_a_missing_uv_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"uv cannot be started: .*pip install uv"):
        read_sbom("api")
