"""Starts the service from the command line: `python -m src.mlops.api --port 8000 --workers 2`, or `inv api`."""

from typing import Annotated, Any

import typer
from pydantic import ValidationError

from src.mlops.cli import new_app
from src.mlops.errors import ServiceError, describe
from src.mlops.project import load_project
from src.mlops.serving.logs import start_logging
from src.mlops.serving.server import run
from src.mlops.serving.settings import Settings

app = new_app()


@app.command("api")
def serve(
    model: Annotated[str | None, typer.Option(help="Model file; latest: last trained model; none: no model.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0: all interfaces.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    workers: Annotated[int | None, typer.Option(help="Number of processes, best the number of CPU cores.")] = None,
    root_path: Annotated[str | None, typer.Option(help="Path of the service behind a proxy, such as /signs.")] = None,
) -> None:
    """Starts the service. Options override variables such as MLOPS_PORT; docs/serving.md lists all settings."""
    given: dict[str, Any] = {"model": model, "host": host, "port": port, "workers": workers, "root_path": root_path}
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ServiceError(f"{'; '.join(describe(error))}. docs/serving.md lists all settings.") from error
    load_project()  # reports an error here, and not once in each worker
    start_logging(settings)
    run(settings)
