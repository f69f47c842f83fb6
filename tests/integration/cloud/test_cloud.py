"""The cloud commands in separate processes."""

import ast
import importlib
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from src.mlops import ROOT
from src.mlops.cli import hydra_main


def test_the_group_cloud_contains_all_imported_packages() -> None:
    """Cloud Build installs only this group, so it does not download the packages for training."""
    program = (
        "import sys\n"
        "from src.mlops.cloud import build, deploy, drift_job, rollback, submit\n"
        "print(*(m.__file__ for n, m in list(sys.modules.items()) if n.startswith('src.') and m.__file__), sep='\\n')"
    )
    options = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}
    own = subprocess.run([sys.executable, "-c", program], **options).stdout.split()  # type: ignore[call-overload]
    groups = ["--no-default-groups", "--group=cloud", "--group=gcs", "--no-hashes", "--frozen", "--offline", "--quiet"]
    exported = subprocess.run(["uv", "export", *groups], **options).stdout  # type: ignore[call-overload]
    installed = set(re.findall(r"^[\w.-]+", exported, flags=re.MULTILINE))
    packages = packages_distributions()
    for path in own:
        for node in ast.parse(Path(path).read_text()).body:
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in (str(name).partition(".")[0] for name in names):
                known = {package.lower().replace("_", "-") for package in packages.get(name, [])}
                assert name == "src" or name in sys.stdlib_module_names or known & installed, f"{path} imports {name}"


@pytest.mark.parametrize(
    "name", ["bootstrap", "build", "submit", "deploy", "rollback", "load_test", "drift_job", "teardown"]
)
def test_command_lines(name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sys.argv", [name, "cloud.dry_run=true", "cloud.prediction_log=gs://${cloud.bucket}/prediction_log"]
    )
    hydra_main(importlib.import_module(f"src.mlops.cloud.{name}").main)
    printed = capfd.readouterr().out.splitlines()
    assert len(printed) > 1
    assert all(line.startswith("gcloud ") for line in printed)
