"""The hook that refuses words which are never right in this project's text."""

import re

import pytest
import yaml

from src.mlops import ROOT

HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
ENTRY = next(hook["entry"] for hook in HOOKS if hook["id"] == "phrases")


@pytest.mark.parametrize(
    "text", ["an" + "ew", "gives " + "up its lock", "lets " + "go of", "no " + "lie", "who" + "ever"]
)
def test_refuses(text: str) -> None:
    assert re.search(ENTRY, text)


@pytest.mark.parametrize("text", ["recommended", "amends", "an image", "letting", "a newer one"])
def test_accepts(text: str) -> None:
    assert not re.search(ENTRY, text)
