"""Commands for raw data under DVC: `python -m src.mlops data push --remote storage`, or `inv data.push`."""

from typing import Annotated

import typer

from src.mlops.cli import OverrideOption, new_app
from src.mlops.config import load_config
from src.mlops.data import dvc
from src.mlops.errors import ConfigError

app = new_app("Pack, push and pull the raw data as archives under DVC.")
RemoteOption = Annotated[str, typer.Option(help="Remote in .dvc/config: local (a folder) or storage (the bucket).")]


@app.command()
def pack(override: OverrideOption) -> None:
    """Packs data.raw_dir into archives and adds them to DVC."""
    config = load_config(override)
    if config.data.raw_dir is None:
        raise ConfigError("data.raw_dir must be the folder to pack, but is null.")
    dvc.pack(config.data.raw_dir)


@app.command()
def push(override: OverrideOption, remote: RemoteOption = "local") -> None:
    """Uploads the archives to a remote."""
    dvc.push(remote, load_config(override).cloud.bucket)


@app.command()
def pull(override: OverrideOption, remote: RemoteOption = "local") -> None:
    """Downloads the archives from a remote and verifies them."""
    dvc.pull(remote, load_config(override).cloud.bucket)
