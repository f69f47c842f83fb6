"""The dev container in .devcontainer/, which no test can start."""

import json
import re

import tasks
from src.mlops import ROOT

SETTINGS = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))


def test_python_is_that_of_the_container_images() -> None:
    version = SETTINGS["image"].rpartition(":")[2]
    for path in (ROOT / "dockerfiles").glob("Dockerfile.*"):
        assert f"FROM python:{version}-slim" in path.read_text(encoding="utf-8")


def test_all_packages_come_from_the_lock_file_and_uv_has_the_pinned_version() -> None:
    command = SETTINGS["postCreateCommand"]
    assert "uv sync --locked" in command
    [requirements] = re.findall(r"-r (\S+)", command)
    assert (ROOT / requirements).read_text(encoding="utf-8").startswith("uv==")


def test_commands_and_editor_use_the_environment_of_uv() -> None:
    environment = SETTINGS["containerEnv"]["UV_PROJECT_ENVIRONMENT"]
    assert SETTINGS["remoteEnv"]["PATH"].startswith(f"{environment}/bin:")
    assert (
        SETTINGS["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"] == f"{environment}/bin/python"
    )


def test_each_forwarded_port_names_a_task() -> None:
    known = tasks.namespace.task_names
    labels = {int(port): each["label"] for port, each in SETTINGS["portsAttributes"].items()}
    assert sorted(labels) == SETTINGS["forwardPorts"]
    for label in labels.values():
        assert re.search(r"inv ([a-z.]+)", label)[1] in known  # type: ignore[index]
