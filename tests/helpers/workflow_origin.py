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


def make_origin(folder: Path) -> Path:
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
    return folder / "origin.git"


def tag(repository: Path, name: str, **facts: Any) -> None:
    """Creates a tag of the registry on the branch main."""
    git(repository, "tag", "--annotate", name, "main", "--message", json.dumps(facts))


def git(folder: Path, *arguments: str) -> str:
    """Runs Git and returns its output."""
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
