"""Starts commands and reports their errors: Hydra for commands with a configuration, Typer for all others."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from src.mlops.errors import MlopsError
from src.mlops.io.logs import start_logging

if TYPE_CHECKING:
    from src.mlops.config import Config

OverrideOption = Annotated[
    list[str],
    typer.Option(
        "--override",
        "-o",
        default_factory=list,
        show_default=False,
        help="A Hydra override such as registry=gcs; may be given several times.",
    ),
]
Overrides = Annotated[
    list[str],
    typer.Argument(default_factory=list, show_default=False, help="Hydra overrides such as data.raw_dir=FOLDER."),
]
_TRACEBACK = "HYDRA_FULL_ERROR"  # variable that Hydra defines: 1 shows tracebacks


def hydra_main(task: Callable[["Config"], object]) -> None:
    """Runs `task` as a command that takes Hydra overrides.

    An error of this project, or in the overrides, ends the command with one message and exit code 1. `--debug` or
    `HYDRA_FULL_ERROR=1` shows the traceback.
    """
    # Imported here because batch prediction and the service are installed without Hydra.
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from yaml import YAMLError

    from src.mlops.config import CONFIG_DIR, composition_error, parse_config

    start_logging()
    _read_debug_option()
    wants_traceback = os.environ.get(_TRACEBACK, "0")
    # Without this variable, Hydra prints its own message of several lines instead of raising the error.
    os.environ[_TRACEBACK] = "1"
    failures: list[MlopsError] = []
    composed: list[DictConfig] = []

    @hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base=None)
    def run(raw: DictConfig) -> None:
        composed.append(raw)
        try:
            task(parse_config(raw))
        except MlopsError as error:  # Hydra would print it with a prefix of its own
            failures.append(error)

    try:
        run()
    except (HydraException, YAMLError, ValueError) as error:  # ValueError: a group such as model=null
        if isinstance(error, ValueError) and composed:  # a defect of the task
            raise
        failures.append(composition_error(error))
    except KeyboardInterrupt:
        sys.stderr.write("Stopped by Ctrl-C\n")
        sys.exit(130)  # the shell's exit code for SIGINT
    if failures:
        os.environ[_TRACEBACK] = wants_traceback
        report(failures[0])


def new_app(purpose: str | None = None) -> typer.Typer:
    """Returns a new Typer application.

    Args:
        purpose: Help text of a group of commands; None for an application with a single command.
    """
    return typer.Typer(
        help=purpose, no_args_is_help=purpose is not None, add_completion=False, pretty_exceptions_enable=False
    )


def typer_main(app: typer.Typer) -> None:
    """Runs a Typer application and reports errors in the same way as `hydra_main`."""
    start_logging()
    _read_debug_option()
    try:
        app()
    except MlopsError as error:
        report(error)


def report(error: MlopsError) -> NoReturn:
    """Prints the message of an error to stderr and exits with code 1.

    With `--debug` or `HYDRA_FULL_ERROR=1`, it raises the error instead, which shows the traceback.
    """
    if os.environ.get(_TRACEBACK) == "1":
        raise error
    sys.stderr.write(f"error: {error}\n")
    sys.exit(1)


def _read_debug_option() -> None:
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ[_TRACEBACK] = "1"
