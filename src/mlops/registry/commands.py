"""Commands of the registry, such as `python -m src.mlops registry promote v3 --stage production`."""

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from src.mlops.cli import OverrideOption, new_app
from src.mlops.config import load_config
from src.mlops.registry import register as registration
from src.mlops.registry import registry

app = new_app("Register, promote, roll back and fetch versions of the model.")


class Stage(StrEnum):
    """Stages that a version can be in."""

    staging = "staging"
    production = "production"


PushOption = Annotated[
    bool, typer.Option("--push", help="Push the tag to the Git remote origin. This starts the workflow.")
]


@app.command("list")
def show(override: OverrideOption) -> None:
    """Shows all versions with their stages and their state."""
    Console().print(registry.table(load_config(override)))


@app.command()
def register(override: OverrideOption, push: PushOption = False) -> None:
    """Registers the model at ckpt_path as the next version."""
    registration.register(load_config(override), push=push)


@app.command()
def promote(
    override: OverrideOption,
    version: Annotated[str | None, typer.Argument(help="Version such as v3. Default: the newest version.")] = None,
    stage: Annotated[Stage, typer.Option(help="Stage to put the version in.")] = Stage.staging,
    force: Annotated[bool, typer.Option("--force", help="Promote even if the gate fails. This is recorded.")] = False,
    push: PushOption = False,
) -> None:
    """Puts a version into a stage if it passes the gate."""
    registry.promote(load_config(override), stage, version, force=force, push=push)


@app.command()
def rollback(
    override: OverrideOption,
    stage: Annotated[Stage, typer.Option(help="Stage to roll back.")] = Stage.production,
    push: PushOption = False,
) -> None:
    """Rolls a stage back to its previous version."""
    registry.rollback(load_config(override), stage, push=push)


@app.command()
def sync(override: OverrideOption) -> None:
    """Writes the versions in the stages to the store, from the Git tags."""
    registry.sync(load_config(override))


@app.command()
def pull(
    override: OverrideOption,
    version: Annotated[
        str | None, typer.Argument(help="Version such as v3, or a tag of the registry. Default: the newest version.")
    ] = None,
) -> None:
    """Fetches the files of a version to the folder of ckpt_path and checks them."""
    registry.pull(load_config(override), version)
