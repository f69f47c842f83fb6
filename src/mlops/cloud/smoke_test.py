"""Asks a running service whether it works: `python -m src.mlops.smoke http://localhost:8000`."""

import io
import logging
import sys
from typing import Annotated

import httpx2 as httpx
import typer
from PIL import Image
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from src.mlops.data.signs import NUM_CLASSES
from src.mlops.errors import MlopsError, ServiceError, report

logger = logging.getLogger("src.mlops.smoke")
PATIENCE = 60.0  # seconds until the service must be ready


def smoke(url: str, token: str = "", patience: float = PATIENCE) -> str:
    """Waits until a service is ready, classifies a picture and sends something that is none.

    Args:
        url: Its address.
        token: Identity token, for a service that not everyone may ask.
        patience: Seconds to wait.

    Returns:
        The version of the model that answered.

    Raises:
        ServiceError: It is not ready in time, or answers otherwise than it should.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=url, headers=headers, timeout=10) as client:
        try:
            _wait(client, patience)
            good = client.post("/cv_model/", files={"file": ("sign.png", _picture())})
            answer = good.raise_for_status().json()
            bad = client.post("/cv_model/", files={"file": ("sign.png", b"no picture")})
        except (httpx.HTTPError, ValueError) as error:
            raise ServiceError(
                f"expected {url} to answer, found: {error or type(error).__name__}. See its log."
            ) from error
    sound = answer.get("predicted_class") in range(NUM_CLASSES) and 0 <= answer.get("probability", -1) <= 1
    if not sound or bad.status_code != httpx.codes.UNSUPPORTED_MEDIA_TYPE:
        raise ServiceError(
            f"expected a class with its probability from {url}, and 415 for what is no picture, found {answer} and "
            f"{bad.status_code}."
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


def _picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def main(
    url: Annotated[str, typer.Argument(help="Address of the service.")],
    patience: Annotated[float, typer.Option(min=0, help="Seconds to wait until it is ready.")] = PATIENCE,
) -> None:
    """Ends with exit code 0 if the service works, else with 1 and what is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        logger.info("%s answers, model version %s", url, smoke(url, patience=patience))
    except MlopsError as error:
        report(error)


if __name__ == "__main__":
    typer.run(main)
