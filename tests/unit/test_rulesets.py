"""The rules for branches and tags, as files that can be imported into a repository on GitHub."""

import json
from fnmatch import fnmatch
from itertools import product
from typing import Any

import pytest
import yaml

from src.mlops import ROOT
from src.mlops.modelfile.store import model_name

RULESETS: list[dict[str, Any]] = [
    json.loads(path.read_text()) for path in sorted((ROOT / ".github/rulesets").glob("*.json"))
]


def rules_of(ref: str) -> set[str]:
    """Returns the rules for a tag."""
    return {
        rule["type"]
        for ruleset in RULESETS
        if ruleset["target"] == "tag"
        and any(fnmatch(ref, pattern) for pattern in ruleset["conditions"]["ref_name"]["include"])
        for rule in ruleset["rules"]
    }


def test_all_rules_are_active_and_have_a_name() -> None:
    assert len({ruleset["name"] for ruleset in RULESETS}) == 3
    assert {ruleset["enforcement"] for ruleset in RULESETS} == {"active"}


def test_only_maintainers_promote_to_production_and_release() -> None:
    restricted = {"creation", "update", "deletion"}
    assert rules_of(f"refs/tags/{model_name()}#production#5") == restricted
    assert rules_of("refs/tags/v5.0.0") == restricted


@pytest.mark.parametrize("end", ["@v3.0.0", "#staging#5"])
def test_other_tags_of_the_registry_never_change_but_workflows_can_create_them(end: str) -> None:
    """The workflow `collect` registers models, and puts those of retrainings into staging."""
    assert rules_of(f"refs/tags/{model_name()}{end}") == {"update", "deletion"}


def test_other_tags_are_free() -> None:
    assert rules_of("refs/tags/experiment") == set()


def test_required_checks_are_jobs_of_the_workflows() -> None:
    """A check that no job reports would block every pull request."""
    names = set()
    for path in (ROOT / ".github/workflows").glob("*.yaml"):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            matrix = {
                key: values
                for key, values in job.get("strategy", {}).get("matrix", {}).items()
                if key not in ("include", "exclude")
            }
            for chosen in product(*matrix.values()):
                name = str(job.get("name", ""))
                for key, value in zip(matrix, chosen, strict=True):
                    name = name.replace(f"${{{{ matrix.{key} }}}}", str(value))
                names.add(name)
    [rules] = [ruleset["rules"] for ruleset in RULESETS if ruleset["target"] == "branch"]
    [checks] = [rule["parameters"]["required_status_checks"] for rule in rules if rule["type"].endswith("checks")]
    assert {check["context"] for check in checks} <= names
