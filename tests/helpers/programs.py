"""Programs that some tests need and that are no Python packages."""

import os
import shutil

import pytest


def require(name: str) -> str:
    """Returns the path of a program of Prometheus, or skips the test. `.ci/run` requires these programs."""
    if found := shutil.which(name):
        return found
    reason = f"{name} is not installed (Debian packages prometheus and prometheus-alertmanager)"
    if os.environ.get("REQUIRE_PROMTOOL"):
        pytest.fail(reason)
    pytest.skip(reason)
