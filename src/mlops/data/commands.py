"""Commands for raw data under DVC, and for drawn signs: `python -m src.mlops data push`, or `inv data.push`."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from src.mlops.cli import OverrideOption, new_app
from src.mlops.config import load_config
from src.mlops.data import dvc
from src.mlops.data.synthetic.contact_sheet import write_sign_sheets
from src.mlops.errors import ConfigError

logger = logging.getLogger(__name__)
app = new_app("Pack, push and pull the raw data as archives under DVC, and draw signs.")
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


@app.command()
def signs(
    raw_dir: Annotated[
        Path | None, typer.Option(help="Folder or archive of images of GTSRB, to show next to drawn ones.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to; default: reports/signs.")] = Path("reports/signs"),
) -> None:
    """Writes contact sheets of all signs that can be drawn."""
    for path in write_sign_sheets(out, raw_dir):
        logger.info("Wrote %s", path)
