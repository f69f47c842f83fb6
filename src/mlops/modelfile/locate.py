"""Which code this is: the commit of the checkout, or in an image the one that it was built from."""

import os
import subprocess

from src.mlops import ROOT
from src.mlops.model_info import UNCOMMITTED

BUILT_FROM = "MLOPS_COMMIT"  # variable of the environment that dockerfiles/Dockerfile.train sets


def source_commit() -> str | None:
    """Returns the commit, with `+changes` where files differ from it; None where none is known.

    What the pipeline itself notes while it runs, dvc.lock, is no change.
    """
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock", ":!params.yaml")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(BUILT_FROM) or None
    return f"{commit}{UNCOMMITTED}" if changed else commit


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
