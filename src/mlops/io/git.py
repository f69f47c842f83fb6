"""Runs Git, and identifies the version of the source code."""

import os
import subprocess
from pathlib import Path

from src.mlops import ROOT
from src.mlops.errors import GitError

UNCOMMITTED = "+changes"  # appended to the commit if files differ from it
BUILT_FROM = "MLOPS_COMMIT"  # environment variable that dockerfiles/Dockerfile.train sets


def git(repository: Path, *arguments: str) -> str:
    """Runs Git and returns its standard output.

    Raises:
        GitError: The command fails, or Git is not installed.
    """
    try:
        result = subprocess.run(  # noqa: S603 - no shell is involved
            ["git", *arguments],  # noqa: S607
            cwd=repository,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise GitError(f"Cannot run Git in {repository}: {error}.") from error
    if result.returncode:
        reason = " ".join(result.stderr.split()) or f"exit code {result.returncode}"
        raise GitError(f"`git {arguments[0]}` failed: {reason}.")
    return result.stdout.strip()


def source_commit() -> str | None:
    """Returns the commit of the source code, with `+changes` if files differ from it; None if it is unknown.

    In a container without a repository, it is the commit that the container image was built from. The pipeline writes
    dvc.lock and params.yaml while it runs, so differences in these files are ignored.
    """
    try:
        commit = git(ROOT, "rev-parse", "HEAD")
        changed = git(ROOT, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock", ":!params.yaml")
    except GitError:
        return os.environ.get(BUILT_FROM) or None
    return f"{commit}{UNCOMMITTED}" if changed else commit
