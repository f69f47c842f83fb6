"""Lists and runs the commands that take options: `python -m src.mlops`, `python -m src.mlops predict FOLDER`."""

import sys
from importlib import import_module

from src.mlops.cli import new_app, report, typer_main
from src.mlops.errors import ConfigError

COMMANDS = {  # command or group of commands → its module and the name of its Typer application
    "predict": ("predict", "app"),
    "explain": ("predict", "explaining"),
    "api": ("serving.commands", "app"),
    "loadtest": ("serving.loadtest", "app"),
    "cross-validate": ("evaluation.cross_validation", "app"),
    "train-job": ("train_job", "app"),
    "smoke-test": ("cloud.smoke_test", "app"),
    "collect": ("cloud.collect", "app"),
    "pipeline": ("pipeline", "app"),
    "data": ("data.commands", "app"),
    "drift": ("monitoring.commands", "app"),
    "drift-api": ("serving.commands", "drift"),
    "monitor-demo": ("demo.monitor", "app"),
    "loop-demo": ("demo.loop", "app"),
    "registry": ("registry.commands", "app"),
    "erase": ("monitoring.erase", "app"),
    "labels": ("monitoring.label_commands", "app"),
    "sbom": ("cloud.sbom", "app"),
    "compact": ("monitoring.compact", "app"),
}


WITH_CONFIGURATION = {"train", "evaluate", "export", "sweep", "quickstart"}


def main() -> None:
    """Runs the requested command, or lists all commands."""
    if set(sys.argv[1:2]) & WITH_CONFIGURATION:
        report(ConfigError(f"`{sys.argv[1]}` takes a configuration: use `python -m src.mlops.{sys.argv[1]}`."))
    app = new_app("Commands that take options. `inv --list` also shows the commands that take a configuration.")
    asked = set(sys.argv[1:2]) & COMMANDS.keys()  # only the module of the requested command is imported
    for name in asked or COMMANDS:
        module, attribute = COMMANDS[name]
        try:
            commands = getattr(import_module(f"src.mlops.{module}"), attribute)
        except ModuleNotFoundError as error:  # the service image has only some packages
            if asked or str(error.name).startswith("src"):
                raise
            continue
        is_group = commands.info.no_args_is_help
        app.add_typer(commands, name=name if is_group else None)
    typer_main(app)


if __name__ == "__main__":
    main()
