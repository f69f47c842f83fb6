"""The reference of all commands: the tasks of `inv`, and the commands behind them."""

import ast
import re
import runpy
from importlib import import_module
from typing import Any

import typer
from invoke.collection import Collection
from invoke.tasks import Task

from docs_generator.markdown import cell
from src.mlops import ROOT
from src.mlops.__main__ import COMMANDS
from src.mlops.io.markdown import table as markdown_table

GROUPS = {  # order and titles of the groups of tasks
    "": "From images to a served model",
    "data": "Data",
    "model": "Model files",
    "registry": "Versions",
    "log": "Prediction log",
    "labels": "Labels",
    "drift": "Drift",
    "monitor": "Alerts",
    "docker": "Container images",
    "gcp": "Google Cloud",
}
OPTIONS = "option|default|meaning"


def tasks() -> str:
    """Returns a section for each group of tasks, and below it one for each task with its options."""
    # Not imported: invoke removes the help texts of a task as soon as something asks for its arguments.
    namespace = runpy.run_path(str(ROOT / "tasks.py"))["namespace"]
    groups: dict[str, Collection] = {"": namespace, **namespace.collections}
    order = [*GROUPS, *sorted(groups.keys() - GROUPS.keys())]  # a new group comes last, under its own name
    return "\n".join(_group(name, groups[name]) for name in order if name in groups)


def _group(name: str, group: Collection) -> str:
    prefix = f"{name}." if name else ""
    sections = [_task(prefix + task.name, task) for task in group.tasks.values()]
    return "\n".join([f"## {GROUPS.get(name, name)}\n", *sections])


def _task(name: str, task: Task[Any]) -> str:
    arguments = task.get_arguments()
    positional = [argument for argument in arguments if argument.positional and argument.kind is not list]
    words = " ".join([f"inv {name}", *(str(argument.name).upper() for argument in positional)])
    rows = [
        [
            f"`{str(argument.name).upper()}`" if argument in positional else _flags(argument.names),
            "required" if argument in positional else _default(argument.default),
            cell(argument.help or ""),
        ]
        for argument in arguments
    ]
    table = f"\n{markdown_table(OPTIONS, rows)}" if rows else ""
    return f"### `{words}`\n\n{(task.__doc__ or '').strip()}\n{table}"


def _flags(names: tuple[str, ...]) -> str:
    flags = [f"{'-' if len(name) == 1 else '--'}{name.replace('_', '-')}" for name in names]
    return ", ".join(f"`{flag}`" for flag in flags)


def _default(value: object) -> str:
    return f"`{value}`" if isinstance(value, str | int | float) and value not in ("", False) else ""


def with_configuration() -> str:
    """Returns a table of the modules that take Hydra overrides."""
    rows = []
    for path in sorted((ROOT / "src/mlops").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if re.search(r"^ +hydra_main\(", text, flags=re.MULTILINE):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            docstring = ast.get_docstring(ast.parse(text)) or ""
            rows.append([f"`python -m {module}`", cell(docstring.split("\n\n")[0])])
    return markdown_table("command|what it does", rows)


def with_options() -> str:
    """Returns a section for each command of `python -m src.mlops`."""
    sections = []
    for name, (module, attribute) in COMMANDS.items():
        command = typer.main.get_command(getattr(import_module(f"src.mlops.{module}"), attribute))
        for part, one in sorted(getattr(command, "commands", {"": command}).items()):
            sections.append(_command(f"{name} {part}".strip(), one))
    return "\n".join(sections)


def _command(name: str, command: Any) -> str:
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
    words = " ".join(["python -m src.mlops", name, *(argument.human_readable_name for argument in arguments)])
    rows = [
        [
            f"`{parameter.human_readable_name}`"
            if parameter in arguments
            else ", ".join(f"`{flag}`" for flag in [*parameter.opts, *parameter.secondary_opts]),
            "required" if parameter.required else _default(_plain(parameter.default)),
            cell(parameter.help or ""),
        ]
        for parameter in shown
    ]
    table = f"\n{markdown_table(OPTIONS, rows)}" if rows else ""
    purpose = re.sub(r"\n(?!\n)", " ", (command.help or "").strip())
    return f"### `{words}`\n\n{purpose}\n{table}"


def _plain(default: object) -> object:
    return None if callable(default) else getattr(default, "value", default)
