"""What the actions of the workflows require, and what they leave behind for later steps."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.workflow_origin import git, renew


@dataclass
class JobState:
    """What the steps of a job have done so far.

    Attributes:
        permissions: Permissions of the job's token.
        workspace: Folder of the job, which is empty before the checkout.
        clone: Clone that becomes the workspace.
        artifacts: Folder of the artifacts of the workflow.
        origin: The repository.
        ref: The branch or tag that is checked out.
        tools: What actions have installed, such as uv.
        groups: The installed dependency groups; None before `uv sync`. `project` are the dependencies of the service.
        logged_in: Whether the job has access to Google Cloud.
    """

    permissions: dict[str, str]
    workspace: Path
    clone: Path
    artifacts: Path
    origin: Path
    ref: str
    tools: set[str] = field(default_factory=set)
    groups: frozenset[str] | None = None
    logged_in: bool = False


def _checkout(job: JobState, given: dict[str, str]) -> None:
    assert given["persist-credentials"] == "false", "the token must not stay in the clone"
    job.workspace = job.clone
    renew(job.clone, job.origin, job.ref, tags=given.get("fetch-depth") == "0")


def _setup_uv(job: JobState, given: dict[str, str]) -> None:
    assert (job.workspace / given["version-file"]).is_file()
    job.tools.add("uv")


def _auth(job: JobState, given: dict[str, str]) -> None:
    assert job.permissions.get("id-token") == "write", "a login needs the permission id-token: write"
    assert all(given[name] for name in ("workload_identity_provider", "service_account")), "a variable is not set"
    assert (job.workspace / ".git").exists(), "the login must come after the checkout"
    (job.workspace / "gha-creds-0123456789abcdef.json").write_text("{}")
    changed = git(job.workspace, "status", "--porcelain")
    assert not changed, f"the working copy is not clean after the login: {changed}"
    job.logged_in = True


def _setup_gcloud(job: JobState, given: dict[str, str]) -> None:
    assert job.logged_in, "gcloud is installed before the login"
    job.tools.add("gcloud")


def _upload_artifact(job: JobState, given: dict[str, str]) -> None:
    target = job.artifacts / given["name"]
    shutil.rmtree(target, ignore_errors=True)
    paths = [job.workspace / line.strip() for line in given["path"].splitlines()]
    found = [path for path in paths if path.exists()]
    assert found or given.get("if-no-files-found") != "error", f"none of {paths} exists"
    common = Path(os.path.commonpath([str(path.parent) for path in found])) if found else job.workspace
    for path in found:  # as the action does, relative to the common folder
        (target / path.relative_to(common)).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copy)(path, target / path.relative_to(common))


def _cache(job: JobState, given: dict[str, str]) -> None:
    assert given["path"], "the input path is empty"
    assert given["key"], "the input key is empty"


def _upload_pages_artifact(job: JobState, given: dict[str, str]) -> None:
    assert (job.workspace / given["path"] / "index.html").is_file()


def _deploy_pages(job: JobState, given: dict[str, str]) -> dict[str, str]:
    assert job.permissions == {"pages": "write", "id-token": "write"}
    return {"page_url": "https://owner.github.io/name"}


def _setup_buildx_action(job: JobState, given: dict[str, str]) -> None:
    job.tools.add("buildx")


def _build_push_action(job: JobState, given: dict[str, str]) -> None:
    assert "buildx" in job.tools
    assert (job.workspace / given["context"] / given["file"]).is_file(), f"{given['file']} does not exist"


def _attest(job: JobState, given: dict[str, str]) -> None:
    assert job.permissions.get("id-token") == job.permissions.get("attestations") == "write"
    subjects = given.get("subject-path")
    assert not subjects or list(job.workspace.glob(subjects)), f"{subjects} does not exist"
    assert not given.get("sbom-path") or (job.workspace / given["sbom-path"]).is_file()


ACTIONS: dict[str, Callable[[JobState, dict[str, str]], dict[str, str] | None]] = {
    "actions/attest": _attest,
    "actions/cache": _cache,
    "actions/checkout": _checkout,
    "actions/deploy-pages": _deploy_pages,
    "actions/upload-artifact": _upload_artifact,
    "actions/upload-pages-artifact": _upload_pages_artifact,
    "astral-sh/setup-uv": _setup_uv,
    "docker/build-push-action": _build_push_action,
    "docker/setup-buildx-action": _setup_buildx_action,
    "google-github-actions/auth": _auth,
    "google-github-actions/setup-gcloud": _setup_gcloud,
}
