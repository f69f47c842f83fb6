"""Starts a service from the command line.

`python -m src.mlops.api --port 8000 --workers 2` or `inv api`; `python -m src.mlops.drift_api` or `inv drift.api`.
"""

from typing import Annotated, TypeVar

import typer
from pydantic import ValidationError

from src.mlops.cli import new_app
from src.mlops.errors import ServiceError, describe
from src.mlops.project import load_project
from src.mlops.serving.logs import start_logging
from src.mlops.serving.server import run
from src.mlops.serving.settings import DriftSettings, ServerSettings, Settings

app, drift = new_app(), new_app()
Host = Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0: all interfaces.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on.")]
RootPath = Annotated[str | None, typer.Option(help="Path of the service behind a proxy, such as /signs.")]
S = TypeVar("S", bound=ServerSettings)


@app.command("api")
def serve(
    model: Annotated[str | None, typer.Option(help="Model file; latest: last trained model; none: no model.")] = None,
    host: Host = None,
    port: Port = None,
    workers: Annotated[int | None, typer.Option(help="Number of processes, best the number of CPU cores.")] = None,
    root_path: RootPath = None,
) -> None:
    """Starts the service. Options override variables; docs/reference/service-settings.md lists all."""
    settings = _read(Settings, model=model, host=host, port=port, workers=workers, root_path=root_path)
    load_project()  # reports an error here, and not once in each worker
    start_logging(settings)
    run(settings, "src.mlops.api:app", settings.workers)


@drift.command("drift-api")
def serve_drift(
    log: Annotated[str | None, typer.Option(help="Folder or gs:// URL of the prediction log.")] = None,
    model: Annotated[str | None, typer.Option(help="Model whose records are judged.")] = None,
    host: Host = None,
    port: Port = None,
    root_path: RootPath = None,
) -> None:
    """Starts the drift service. Options override variables; docs/reference/service-settings.md lists all."""
    settings = _read(DriftSettings, log_url=log, model=model, host=host, port=port, root_path=root_path)
    start_logging(settings)
    run(settings, "src.mlops.drift_api:app")


def _read(kind: type[S], **given: str | int | None) -> S:
    """Reads the settings of a service. Options that are None are not given."""
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first, *_ = *error.errors()[0]["loc"], "port"
        variable = f"{kind.model_config['env_prefix']}{first}".upper()
        raise ServiceError(
            f"{'; '.join(describe(error))}. Settings are environment variables, such as {variable}; "
            "docs/reference/service-settings.md lists all of them."
        ) from error
