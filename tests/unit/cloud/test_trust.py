"""The workflows that act in Google Cloud are those that the identity provider trusts."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from src.mlops import ROOT
from src.mlops.cloud.github import ENVIRONMENTS, MEASURES, WORKFLOWS

FOLDER = ROOT / ".github/workflows"


def jobs_with(variable: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields file, name and content of the jobs that log in with the account in a variable of the repository."""
    for path in sorted(FOLDER.glob("*.yaml")):
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            if variable in yaml.safe_dump(job):
                yield path.name, name, job


def test_only_trusted_workflows_use_the_account_build() -> None:
    found = list(jobs_with("vars.GCP_SERVICE_ACCOUNT"))
    assert {file for file, _, _ in found} == set(WORKFLOWS)
    environments = {job["environment"] for _, _, job in found}
    assert environments == set(ENVIRONMENTS)


@pytest.mark.parametrize("file", WORKFLOWS)
def test_trusted_workflows_run_on_the_main_branch(file: str) -> None:
    """A run for a tag or pull request has the workflow file of that commit, and gets no access."""
    triggers = yaml.safe_load((FOLDER / file).read_text())[True]  # YAML reads the key `on` as true
    assert set(triggers) <= {"workflow_dispatch", "schedule", "workflow_run"}


def test_jobs_that_measure_can_only_read() -> None:
    for file, _, job in jobs_with("vars.GCP_MEASURE_ACCOUNT"):
        assert file == MEASURES
        assert "vars.GCP_SERVICE_ACCOUNT" not in yaml.safe_dump(job)
        assert "environment" not in job
    assert list(jobs_with("vars.GCP_MEASURE_ACCOUNT"))
