"""The whole path once, with drawn signs: data → training → evaluation → service → one answer over HTTP."""

import csv
import json
import logging
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx

from src.mlops import ROOT
from src.mlops.config import Config, hydra_main
from src.mlops.data.prepare import SPLIT_FILES
from src.mlops.data.signs import SIGNS
from src.mlops.data.sources import locate_raw
from src.mlops.errors import ServiceError
from src.mlops.evaluate import evaluate
from src.mlops.train import train

logger = logging.getLogger(__name__)
START_TIMEOUT = 60.0  # seconds until the service must be ready


def quickstart(config: Config) -> None:
    """Runs the whole path and prints what was learned.

    Raises:
        ServiceError: The service did not start or gave no answer.
    """
    started = time.perf_counter()
    train(config)
    results = evaluate(config)
    image, class_id = _one_test_image(config)
    answer = _ask_service(config, image)
    model, reports = _shown(config.ckpt_path), _shown(config.evaluation.reports_dir)
    verdict = "right" if answer["predicted_class"] == class_id else f"wrong: it is {SIGNS[class_id].name}"
    seconds = time.perf_counter() - started
    sys.stdout.write(
        f"""
In {seconds:.0f} s the network learned {len(SIGNS)} signs from drawn pictures. Of {results["images"]} drawn test
pictures, of signs that it had not seen, it names {results["Accuracy"]:.1%} correctly.

The service was asked for {_shown(image)} and answered: {answer["class_name"]}
({answer["probability"]:.1%}), which is {verdict}.

  model     {model}
  figures   {reports}/figures
  metrics   {reports}/metrics.json

Next:
  uv run inv api --model {model}
  curl -F file=@{_shown(image)} http://localhost:8000/cv_model/
  uv run inv train -o data=official        (downloads the real signs, about 360 MB)
"""
    )


def _one_test_image(config: Config) -> tuple[Path, int]:
    raw_dir = locate_raw(config.data)
    with (config.data.processed_dir / SPLIT_FILES["test"]).open(newline="") as file:
        row = next(csv.DictReader(file))
    return Path(raw_dir or ".") / row["Path"], int(row["ClassId"])


def _ask_service(config: Config, image: Path) -> dict[str, Any]:
    """Starts the service as a process of its own, posts one image, stops it."""
    port = _free_port()
    options = ["--model", str(config.ckpt_path), "--port", str(port)]
    with tempfile.TemporaryFile("w+") as log:
        service = subprocess.Popen(  # noqa: S603 - our own module, with options made above
            [sys.executable, "-m", "src.mlops.api", *options], cwd=ROOT, stdout=log, stderr=log
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, service)
            response = httpx.post(f"{url}/cv_model/", files={"file": (image.name, image.read_bytes())}, timeout=30)
            answer: dict[str, Any] = response.raise_for_status().json()
        except (httpx.HTTPError, ServiceError) as error:
            log.seek(0)
            raise ServiceError(f"expected an answer from the service, found: {error}. Its log: {log.read()}") from error
        finally:
            service.terminate()
            service.wait(timeout=10)
    logger.info("the service answered: %s", json.dumps(answer, ensure_ascii=False))
    return answer


def _wait_until_ready(url: str, service: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise ServiceError(f"it ended with exit code {service.returncode}")
        try:
            if httpx.get(f"{url}/health/ready", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(0.1)
    raise ServiceError(f"it was not ready within {START_TIMEOUT:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    hydra_main(quickstart)
