"""A repository that the workflows run in: this one as on disk, with a released version and tags of the registry."""

import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from src.mlops import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TRACKED = "tracked"  # branch on which DVC tracks data
REGISTERED: dict[str, dict[str, Any]] = {
    "gtsrb@v1.0.0": {},
    "gtsrb@v2.0.0": {},
    "gtsrb#staging#1": {"event": "promote", "version": "v1"},
    "gtsrb#production#2": {"event": "promote", "version": "v1", "forced": True},
    "gtsrb#staging#3": {"event": "promote", "version": "v2"},
    "gtsrb#production#4": {"event": "promote", "version": "v2"},
}


def make_origin(folder: Path) -> None:
    """Creates the bare repository `origin.git` in a new folder."""
    work = folder / "source"
    work.mkdir(parents=True)
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, work / name)
    log = work / "CHANGELOG.md"
    log.write_text(log.read_text().replace("## [Unreleased]", f"## [{PROJECT['version']}] - 2026-12-01"))
    git(work, "init", "--quiet", "--initial-branch=main")
    git(work, "add", "--all")
    git(work, "commit", "--quiet", "--message=one")
    git(work, "tag", f"v{PROJECT['version']}")
    for name, facts in REGISTERED.items():
        tag(work, name, **facts)
    git(work, "switch", "--quiet", "--create", TRACKED)
    pointer = work / "data" / "raw" / "archives" / "train.tar.dvc"
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.touch()
    git(work, "add", str(pointer))
    git(work, "commit", "--quiet", "--message=two")
    git(work, "clone", "--quiet", "--bare", ".", str(folder / "origin.git"))
    git(folder / "origin.git", "repack", "--quiet", "-a", "-d")  # few files, because each test copies it


def renew(clone: Path, origin: Path, ref: str, *, tags: bool) -> None:
    """Turns a clone into a fresh one of `origin`, which takes less time than to write all files again.

    Args:
        clone: The clone; created if it does not exist.
        origin: The repository.
        ref: Branch or tag to check out.
        tags: Whether the clone gets the tags.
    """
    if not clone.exists():
        git(origin.parent, "clone", "--quiet", "--no-tags", str(origin), str(clone))
        shutil.copy(clone / ".git" / "config", clone / ".git" / "config.fresh")
    shutil.copy(clone / ".git" / "config.fresh", clone / ".git" / "config")
    git(clone, "remote", "set-url", "origin", str(origin))
    git(clone, "clean", "-ffdxq")
    git(clone, "switch", "--quiet", "--force", "--detach")
    delete = "".join(f"delete {name}\n" for name in git(clone, "for-each-ref", "--format=%(refname)").splitlines())
    git(clone, "update-ref", "--no-deref", "--stdin", stdin=delete)
    git(clone, "fetch", "--quiet", "--no-tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
    if tags:
        git(clone, "fetch", "--quiet", "--tags", "origin")
    git(clone, "fetch", "--quiet", "--no-tags", "origin", ref)
    git(clone, "switch", "--quiet", "--force", "--detach", "FETCH_HEAD")


def tag(repository: Path, name: str, **facts: Any) -> None:
    """Creates a tag of the registry on the branch main."""
    git(repository, "tag", "--annotate", name, "main", "--message", json.dumps(facts))


def git(folder: Path, *arguments: str, stdin: str = "") -> str:
    """Runs Git and returns its output."""
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, input=stdin).stdout
