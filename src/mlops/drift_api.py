"""Starts the drift service: `python -m src.mlops.drift_api`, or `uvicorn src.mlops.drift_api:app`."""

from typing import Any


def __getattr__(name: str) -> Any:
    # The application is built when the server asks for `app`, and not when the module is imported.
    if name == "app":
        from src.mlops.serving.drift_app import create_app
        from src.mlops.serving.logs import start_logging
        from src.mlops.serving.settings import DriftSettings

        settings = DriftSettings()  # type: ignore[call-arg] # from the environment
        start_logging(settings)
        return create_app(settings)
    raise AttributeError(name)


if __name__ == "__main__":
    from src.mlops.cli import typer_main
    from src.mlops.serving.commands import drift

    typer_main(drift)
