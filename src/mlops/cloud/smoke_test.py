"""Tests a running service: `python -m src.mlops.cloud.smoke_test http://localhost:8000`."""

import io
import logging
from collections.abc import Mapping
from typing import Annotated

import httpx2 as httpx
import typer
from PIL import Image
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from src.mlops.cli import new_app, typer_main
from src.mlops.errors import ServiceError

app = new_app()
logger = logging.getLogger("src.mlops.cloud.smoke_test")
PATIENCE = 60.0  # maximum seconds until the service is ready


def smoke(url: str, headers: Mapping[str, str] | None = None, patience: float = PATIENCE) -> str:
    """Waits until a service is ready, then sends a valid image and an invalid one.

    Args:
        url: Address of the service.
        headers: Headers with an identity token or an API key, if the service needs one.
        patience: Maximum waiting time in seconds.

    Returns:
        The version of the served model.

    Raises:
        ServiceError: The service is not ready in time, or an answer is wrong.
    """
    with httpx.Client(base_url=url, headers=dict(headers or {}), timeout=10) as client:
        try:
            _wait(client, patience)
            good = client.post("/cv_model/", files={"file": ("sign.png", _image())})
            answer = good.raise_for_status().json()
            bad = client.post("/cv_model/", files={"file": ("sign.png", b"no image")})
        except (httpx.HTTPError, ValueError) as error:
            raise ServiceError(f"The service at {url} failed: {_reason(error)}") from error
    sound = isinstance(answer.get("predicted_class"), int) and 0 <= answer.get("probability", -1) <= 1
    if not sound or bad.status_code != httpx.codes.UNSUPPORTED_MEDIA_TYPE:
        raise ServiceError(
            f"The service at {url} gave a wrong answer. An image must yield a class and a probability, and a text the "
            f"status 415, but the answers are {answer} and {bad.status_code}."
        )
    return str(answer["model_version"])


def _wait(client: httpx.Client, patience: float) -> None:
    again = retry(
        retry=retry_if_exception_type(httpx.HTTPError),
        stop=stop_after_delay(patience),
        wait=wait_fixed(0.2),
        reraise=True,
    )
    again(lambda: client.get("/health/ready").raise_for_status())()


def _reason(error: Exception) -> str:
    """Returns the reason of a failure and what to do."""
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == httpx.codes.FORBIDDEN:
        return (
            "Google refused the request with the status 403. The account that asks needs the permission "
            "run.routes.invoke (roles/run.invoker) on the service. `inv gcp.bootstrap`, run by an owner, grants it to "
            "`build`, and opens the service after cloud.serve.public was set."
        )
    return f"{error or type(error).__name__}. See its log."


def _image() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


@app.command("smoke-test")
def main(
    url: Annotated[str, typer.Argument(help="Address of the service.")],
    patience: Annotated[float, typer.Option(min=0, help="Maximum seconds until the service is ready.")] = PATIENCE,
) -> None:
    """Exits with code 0 if the service works, otherwise with an error message and code 1."""
    logger.info("The service at %s works, model version %s", url, smoke(url, patience=patience))


if __name__ == "__main__":
    typer_main(app)
