"""The workflow that publishes a release: what it pushes and attests, and its scripts."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.mlops import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the scripts need the tools of a Linux runner")
WORKFLOWS = ROOT / ".github" / "workflows"
RELEASE = yaml.safe_load((WORKFLOWS / "release.yaml").read_text())["jobs"]
IMAGES = yaml.safe_load((WORKFLOWS / "images.yaml").read_text())["jobs"]
ATTEST = "actions/attest@"
PUBLIC_ONLY = "${{ !github.event.repository.private }}"
# `docker buildx imagetools inspect --raw` prints the bytes of the index, whose SHA-256 is its digest.
INDEX = '{"manifests": []}'
DOUBLES = {
    "docker": f"""
        echo "docker $*" >> calls.txt
        case "$*" in
          *"inspect --raw"*) printf %s '{INDEX}';;
          login*) cat > token.txt;;
        esac
    """,
    "gh": 'echo "gh $*" >> calls.txt',
}


def steps(job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = RELEASE[job]["steps"]
    return found


def script(job: str, name: str) -> str:
    (found,) = [step["run"] for step in steps(job) if step.get("name", "").startswith(name)]
    return str(found)


def test_nothing_is_published_before_the_tests_and_the_approval() -> None:
    assert set(RELEASE["push"]["needs"]) == {"test", "images"}
    assert RELEASE["push"]["environment"] == "release"
    assert "push" in RELEASE["publish"]["needs"]
    assert "publish" in RELEASE["release"]["needs"]
    for name in ("test", "images"):
        assert RELEASE[name]["permissions"] == {"contents": "read"}


def test_the_images_that_are_pushed_are_tested_on_the_same_architectures() -> None:
    pushed = RELEASE["push"]["strategy"]["matrix"]
    assert RELEASE["publish"]["strategy"]["matrix"]["image"] == pushed["image"]
    for image in pushed["image"]:
        assert (ROOT / "dockerfiles" / f"Dockerfile.{image}").is_file()
        tested = {entry["arch"] for entry in IMAGES[image]["strategy"]["matrix"]["include"]}
        assert tested == set(pushed["arch"]) == {"amd64", "arm64"}


def test_images_and_files_are_attested() -> None:
    images = [step["with"] for step in steps("publish") if step.get("uses", "").startswith(ATTEST)]
    assert [step.get("sbom-path") for step in images] == [None, "sbom.cdx.json"]
    for step in images:
        assert step["subject-digest"] == "${{ steps.index.outputs.digest }}"
        assert step["push-to-registry"] is True
    files = [step["with"] for step in steps("release") if step.get("uses", "").startswith(ATTEST)]
    assert files == [{"subject-path": "dist/*"}]
    for job in ("publish", "release"):
        assert RELEASE[job]["permissions"]["id-token"] == "write"
        for step in steps(job):
            assert not step.get("uses", "").startswith(ATTEST) or step["if"] == PUBLIC_ONLY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder with doubles of the commands, and a project with a changelog."""
    for name, text in DOUBLES.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}")
        path.chmod(0o755)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mlops"\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.3] - 2026-12-01\n\n- New.\n\n## [1.2.2]\n\n- Old.\n")
    return tmp_path


def run(folder: Path, text: str, **variables: str) -> subprocess.CompletedProcess[str]:
    surroundings = {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_ACTOR": "someone",
        "GITHUB_OUTPUT": str(folder / "output.txt"),
        "GITHUB_REPOSITORY": "Owner/Signs",
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_SHA": "0" * 40,
    }
    # The shell options of GitHub for `run`.
    return subprocess.run(
        ["bash", "-e", "-c", text],
        cwd=folder,
        env=surroundings | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_version_of_the_tag(folder: Path) -> None:
    result = run(folder, script("test", "Compare the tag"), GITHUB_REF_NAME="v1.2.3")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (folder / "output.txt").read_text() == "version=1.2.3\n"


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("v1.2.4", "The version in pyproject.toml is not 1.2.4."),
        ("v1.2", "The version in pyproject.toml is not 1.2."),
        ("v1.2.3-rc1", "The version in pyproject.toml is not 1.2.3-rc1."),
    ],
)
def test_a_tag_of_another_version_is_refused(folder: Path, tag: str, message: str) -> None:
    result = run(folder, script("test", "Compare the tag"), GITHUB_REF_NAME=tag)
    assert result.returncode == 1
    assert message in result.stdout


def test_a_version_without_a_section_in_the_changelog_is_refused(folder: Path) -> None:
    (folder / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n")
    result = run(folder, script("test", "Compare the tag"), GITHUB_REF_NAME="v1.2.3")
    assert result.returncode == 1
    assert "CHANGELOG.md has no section for 1.2.3." in result.stdout


def test_an_image_is_pushed_under_a_name_in_lower_case(folder: Path) -> None:
    result = run(folder, script("push", "Build"), IMAGE="api", ARCH="arm64", VERSION="1.2.3", GH_TOKEN="secret")
    assert result.returncode == 0, result.stdout + result.stderr
    calls = (folder / "calls.txt").read_text()
    assert "--file dockerfiles/Dockerfile.api --provenance mode=max --sbom true" in calls
    assert "--tag ghcr.io/owner/signs/api:1.2.3-arm64 --push ." in calls
    assert "secret" not in calls
    assert (folder / "token.txt").read_text().strip() == "secret"


def test_the_attested_digest_is_that_of_the_index(folder: Path) -> None:
    result = run(folder, script("publish", "Give both"), IMAGE="api", VERSION="1.2.3", GH_TOKEN="secret")
    assert result.returncode == 0, result.stdout + result.stderr
    name = "ghcr.io/owner/signs/api"
    assert f"create --tag {name}:1.2.3 {name}:1.2.3-amd64 {name}:1.2.3-arm64" in (folder / "calls.txt").read_text()
    digest = hashlib.sha256(INDEX.encode()).hexdigest()
    assert (folder / "output.txt").read_text() == f"name={name}\ndigest=sha256:{digest}\n"


def test_the_release_has_the_section_of_its_version(folder: Path) -> None:
    (folder / "dist").mkdir()
    (folder / "dist" / "signnet.onnx").touch()
    result = run(folder, script("release", "Publish"), VERSION="1.2.3", GH_TOKEN="secret")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (folder / "notes.md").read_text().strip() == "- New."
    called = (folder / "calls.txt").read_text()
    assert called == "gh release create v1.2.3 --verify-tag --title v1.2.3 --notes-file notes.md dist/signnet.onnx\n"
