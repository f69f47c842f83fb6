"""The `inv` tasks: old names, options and commands."""

import sys
from collections.abc import Callable

import pytest
from invoke.program import Program

import tasks
from src.mlops import ROOT

Inv = Callable[..., tuple[str, str]]

# Required arguments of tasks.
ARGUMENTS = {"promote": ["--stage", "staging"], "data-pack": ["--raw-dir", "raw"]}
CONTEXTS = tasks.namespace.to_contexts()


@pytest.fixture
def inv(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Inv:
    """Returns a function that returns the commands of a task, without running them, and its stderr."""

    def run(*words: str) -> tuple[str, str]:
        arguments = ["inv", "--search-root", str(ROOT), "--dry", *words]
        monkeypatch.setattr(sys, "argv", arguments)
        Program().run(arguments, exit=False)
        return capfd.readouterr()

    return run


@pytest.mark.parametrize(("old", "new"), tasks.RENAMED.items())
def test_an_old_name_runs_its_task(old: str, new: str, inv: Inv) -> None:
    arguments = ARGUMENTS.get(old, [])
    commands, hint = inv(old, *arguments)
    assert commands == inv(new, *arguments)[0] != ""
    assert hint == f"`inv {old}` is now `inv {new}`\n"


def test_old_names_are_not_listed(inv: Inv) -> None:
    listed, _ = inv("--list")
    assert "data.prepare" in listed
    assert "preprocess-data" not in listed


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.name)
def test_only_override_has_a_short_option(context: object) -> None:
    short = {name for argument in context.args.values() for name in argument.names if len(name) == 1}
    assert short <= {"o"}


def test_options_with_numbers(inv: Inv) -> None:
    assert "--users 3" in inv("loadtest", "--users", "3")[0]
    assert "--users 0" in inv("loadtest", "--users", "0")[0]
    _, message = inv("loadtest", "--users", "many")
    assert message == "--users must be a whole number, but is 'many'\n"
