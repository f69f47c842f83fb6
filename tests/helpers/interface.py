"""What users of a release rely on. `python -m tests.helpers.interface` records it in tests/released/ for a release."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

import tasks
from src.mlops.__main__ import COMMANDS, WITH_CONFIGURATION
from src.mlops.config import CONFIG_DIR, load_config
from src.mlops.modelfile.store import CACHE, STORE
from src.mlops.serving.settings import Settings
from tests.helpers.service import SNAPSHOT

RELEASED = Path(__file__).parents[1] / "released"
INTERFACE = RELEASED / "interface.json"
OPENAPI = RELEASED / "openapi.json"


def interface() -> dict[str, list[str]]:
    """Returns the names of all settings, choices, variables, tasks and commands, with their options."""
    return {
        "settings": sorted(_leaves(load_config(["data=synthetic"]).to_dict())),
        "choices": sorted(f"{path.parent.name}={path.stem}" for path in CONFIG_DIR.glob("*/*.yaml")),
        "variables": sorted([STORE[0], CACHE[0], *(f"MLOPS_{name.upper()}" for name in Settings.model_fields)]),
        "tasks": sorted(_tasks()),
        "commands": sorted(_commands()),
    }


def _leaves(section: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in section.items():
        # The arguments of networks and optimisers depend on their target.
        free = f"{prefix}{key}" in ("model", "training.optimizer")
        inside = isinstance(value, dict) and not free
        names += _leaves(value, f"{prefix}{key}.") if inside else [f"{prefix}{key}"]
    return names


def _tasks() -> list[str]:
    names = []
    for name in tasks.namespace.task_names:
        names.append(name)
        options = tasks.namespace[name].get_arguments()
        names += [f"{name} --{option.name}" for option in options]
    return names


def _commands() -> list[str]:
    names = [f"src.mlops.{name}" for name in sorted(WITH_CONFIGURATION)]
    for name, (module, attribute) in COMMANDS.items():
        command = typer.main.get_command(getattr(import_module(f"src.mlops.{module}"), attribute))
        below = getattr(command, "commands", {"": command})
        for part, one in below.items():
            full = f"{name} {part}".strip()
            names.append(full)
            names += [f"{full} {option}" for parameter in one.params for option in parameter.opts if option[0] == "-"]
    return names


if __name__ == "__main__":
    INTERFACE.write_text(json.dumps(interface(), indent=1) + "\n")
    OPENAPI.write_text(SNAPSHOT.read_text())
