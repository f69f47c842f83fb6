"""Starts the service and tests it under load: `python -m src.mlops.serving.loadtest`, or `inv loadtest`.

`tests/performancetests/locustfile.py` defines the simulated users. The test fails if a request fails.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from src.mlops import ROOT
from src.mlops.cli import new_app, typer_main
from src.mlops.errors import ServiceError
from src.mlops.io.files import to_json
from src.mlops.io.service_process import running
from src.mlops.modelfile.locate import LATEST

app = new_app()
LOCUSTFILE = "tests/performancetests/locustfile.py"


@app.command("loadtest")
def main(
    host: Annotated[str, typer.Option(help="URL of a running service; default: start one.")] = "",
    users: Annotated[int, typer.Option(help="Number of simultaneous users.", min=1)] = 10,
    seconds: Annotated[int, typer.Option(help="Duration of the test.", min=1)] = 60,
    images: Annotated[str, typer.Option(help="Folder of images to send; default: synthetic images.")] = "",
    model: Annotated[str, typer.Option(help="Model file; latest: last trained model.")] = LATEST,
    workers: Annotated[int, typer.Option(help="Number of processes of the service.", min=1)] = 1,
) -> None:
    """Runs the load test. The exit code is 1 if a request failed."""
    with ExitStack() as stack:
        if not host:
            command = [sys.executable, "-m", "src.mlops.api", "--port", "{port}", "--workers", str(workers)]
            client = stack.enter_context(running(command, "/health/ready", {"MLOPS_MODEL": model}))
            host = str(client.base_url).rstrip("/")
        load_test(host, users, seconds, images)


def load_test(host: str, users: int, seconds: int, images: str = "", headers: Mapping[str, str] | None = None) -> None:
    """Sends requests to a running service.

    Args:
        host: URL of the service.
        users: Number of simultaneous users.
        seconds: Duration of the test.
        images: Folder of images to send; empty: synthetic images.
        headers: Headers of all requests.

    Raises:
        ServiceError: A request failed, or none was sent.
    """
    variables = {"TARGET_HOST": host} | ({"TARGET_IMAGES": str(Path(images).absolute())} if images else {})
    if headers:
        variables["TARGET_HEADERS"] = to_json(dict(headers))  # not an argument, which other processes can see
    command = [sys.executable, "-m", "locust", "-f", LOCUSTFILE, "--headless", "--only-summary", "-u", str(users)]
    done = subprocess.run(  # noqa: S603 - runs a file of this repository
        [*command, "-r", str(users), "-t", f"{seconds}s"], cwd=ROOT, env=os.environ | variables, check=False
    )
    if done.returncode:
        raise ServiceError(
            f"The load test of {host} failed: at least one request failed, or none was sent. See the table above."
        )


if __name__ == "__main__":
    typer_main(app)
