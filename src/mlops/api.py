"""Starts the HTTP service: `uvicorn src.mlops.api:app`, or `python -m src.mlops.api --port 8000`."""

from fastapi import FastAPI

from src.mlops.serving.app import create_app
from src.mlops.serving.logs import start_logging
from src.mlops.serving.settings import Settings

__all__ = ["create_app"]


def __getattr__(name: str) -> FastAPI:
    # The application is built when uvicorn asks for `app`, and not when the module is imported.
    if name == "app":
        settings = Settings()
        start_logging(settings)  # each worker process of uvicorn starts here
        return create_app(settings)
    raise AttributeError(name)


if __name__ == "__main__":
    from src.mlops.cli import typer_main
    from src.mlops.serving.commands import app as commands

    typer_main(commands)
