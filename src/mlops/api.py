"""Starts the HTTP service: `python -m src.mlops.api --port 8000`, or `uvicorn src.mlops.api:app`."""

import os
from typing import Any


def __getattr__(name: str) -> Any:
    # The application is built when the server asks for `app`, and not when the module is imported. Each worker process
    # of the server starts here.
    if name == "app":
        # A `.pth` model uses one thread per call, which is fastest for small networks. torch reads the variable when it
        # is imported, that is when the model is loaded.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        from src.mlops.serving.logs import start_logging
        from src.mlops.serving.settings import Settings
        from src.mlops.serving.shared import open_shared_folder

        settings = Settings()
        start_logging(settings)
        open_shared_folder()
        return __getattr__("create_app")(settings)
    if name == "create_app":
        from src.mlops.serving.app import create_app

        return create_app
    raise AttributeError(name)


if __name__ == "__main__":
    from src.mlops.cli import typer_main
    from src.mlops.serving.commands import app as commands

    typer_main(commands)
