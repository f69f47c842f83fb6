"""Builds the documentation site for tests."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from src.mlops import ROOT

REPOSITORY = "https://github.com/somebody/signs"


def build(folder: Path) -> Path:
    """Builds the site in a copy of what it needs, and returns the folder of the site."""
    zensical = shutil.which("zensical")
    if zensical is None:
        pytest.skip("the group docs is not installed: uv sync --group docs")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    for name in ("docs", "docs_generator/theme", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {"REPOSITORY_URL": REPOSITORY}
    built = subprocess.run(
        [zensical, "build", "--strict"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"
