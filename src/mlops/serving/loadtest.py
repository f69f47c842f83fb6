"""Starts the service and lets users loose on it: `python -m src.mlops.loadtest`, or `inv loadtest`.

The users are those of `tests/performancetests/locustfile.py`. A failed request makes it fail.
"""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from src.mlops import ROOT
from src.mlops.errors import MlopsError, ServiceError, report
from src.mlops.inference import LATEST
from src.mlops.service_process import running

LOCUSTFILE = "tests/performancetests/locustfile.py"


def main(
    host: Annotated[str, typer.Option(help="A service that runs already, with http://; none starts one here.")] = "",
    users: Annotated[int, typer.Option(help="Users at the same time.", min=1)] = 10,
    seconds: Annotated[int, typer.Option(help="How long.", min=1)] = 60,
    pictures: Annotated[str, typer.Option(help="Folder of pictures to send; none draws signs.")] = "",
    model: Annotated[str, typer.Option(help="Model file; latest is what training made last.")] = LATEST,
    workers: Annotated[int, typer.Option(help="Processes of the service.", min=1)] = 1,
) -> None:
    """Runs the load test; ends with exit code 1 when a request failed."""
    try:
        with ExitStack() as stack:
            if not host:
                command = [sys.executable, "-m", "src.mlops.api", "--port", "{port}", "--workers", str(workers)]
                client = stack.enter_context(running(command, "/health/ready", {"MLOPS_MODEL": model}))
                host = str(client.base_url).rstrip("/")
            failed = _run(host, users, seconds, pictures)
    except MlopsError as error:
        report(error)
    if failed:
        found = f"found failures, or no request at all, at {host}"
        report(ServiceError(f"expected every request to be answered, {found}. See the table above."))


def _run(host: str, users: int, seconds: int, pictures: str) -> bool:
    variables = {"TARGET_HOST": host} | ({"TARGET_PICTURES": str(Path(pictures).absolute())} if pictures else {})
    command = [sys.executable, "-m", "locust", "-f", LOCUSTFILE, "--headless", "--only-summary", "-u", str(users)]
    done = subprocess.run(  # noqa: S603 - the repository's own file
        [*command, "-r", str(users), "-t", f"{seconds}s"], cwd=ROOT, env=os.environ | variables, check=False
    )
    return done.returncode != 0


if __name__ == "__main__":
    typer.run(main)
