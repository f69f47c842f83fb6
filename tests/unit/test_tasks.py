"""The `inv` tasks: old names, options and commands."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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


def test_several_overrides_of_two_configurations(inv: Inv) -> None:
    words = ["-o", "seed=1", "-o", "model=tiny_cnn", "--other", "seed=2", "--other", "training.epochs=3"]
    printed, _ = inv("cross-validate", *words, "--seeds", "2")
    assert "cross-validate --other seed=2 --other training.epochs=3 --seeds 2 seed=1 model=tiny_cnn" in printed


@pytest.mark.parametrize("option", ["--help", "--unknown"])
def test_an_option_is_not_taken_for_an_image(option: str, inv: Inv) -> None:
    commands, message = inv("explain", option)
    assert commands == ""
    assert message.startswith(f"{option} stands where the image must be. `inv --help COMMAND`")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM for one process")
def test_sigterm_ends_the_command_of_a_task(tmp_path: Path) -> None:
    """As for `inv monitor.demo`, whose command then stops its services."""
    command = tmp_path / "command.py"
    command.write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('stopped', flush=True), sys.exit(3)))\n"
        "print('started', flush=True)\n"
        "time.sleep(60)\n"
    )
    run = (
        "import sys, tasks\n"
        "from invoke.context import Context\n"
        "context = Context()\n"
        "context.config.runners.local = tasks.ForwardingRunner\n"
        "sys.exit(context.run(sys.argv[1], warn=True).exited)\n"
    )
    inv = [sys.executable, "-c", run, f"exec {sys.executable} {command}"]
    with subprocess.Popen(inv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "started\n"
        process.terminate()
        assert process.stdout.readline() == "stopped\n"
    assert process.returncode == 3
