"""Trains in a container: `python -m src.mlops.train_job --out gs://bucket/model data=synthetic`.

The variables of Vertex AI are defaults of the options: AIP_MODEL_DIR, AIP_CHECKPOINT_DIR and AIP_TRAINING_DATA_URI.
"""

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from src.mlops import ROOT
from src.mlops.cli import new_app, typer_main
from src.mlops.errors import ConfigError, StorageError
from src.mlops.training.job import Job, read_cluster, read_environment, run

app = new_app()


@app.command("train-job")
def main(
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides such as data=synthetic.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder or gs:// URL for the model; default: AIP_MODEL_DIR.")] = None,
    data: Annotated[str | None, typer.Option(help="Raw images: folder, .zip, .tar or gs:// URL.")] = None,
    collected: Annotated[
        str | None, typer.Option(help="Labelled images of the service to train with as well: the same forms as --data.")
    ] = None,
    checkpoints: Annotated[
        str | None, typer.Option(help="Folder or gs:// URL for checkpoints of the run; default: AIP_CHECKPOINT_DIR.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Local folder for data and the run; default: a new folder.")
    ] = None,
) -> None:
    """Fetches the data, trains and exports a model, and uploads it."""
    given = {"out": out, "data": data, "checkpoints": checkpoints}
    places: dict[str, Any] = {name: given[name] or default for name, default in read_environment(os.environ).items()}
    if not places["out"]:
        raise ConfigError("No destination for the model. Use --out, or set AIP_MODEL_DIR.")
    job = Job(**places, collected=collected, overrides=tuple(overrides or ()), folder=_job_folder(folder))
    run(job, read_cluster(os.environ))


def _job_folder(folder: Path | None) -> Path:
    if folder:
        return ROOT / folder.expanduser()  # the training runs in the repository root
    parent = ROOT / "data"
    try:
        parent.mkdir(exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="job-", dir=parent))
    except OSError as error:
        raise StorageError(f"Cannot write to {parent}: {error}. Choose a different folder with --folder.") from error


if __name__ == "__main__":
    typer_main(app)
