"""Runs all steps once with synthetic images: data → training → evaluation → service → one HTTP request."""

import csv
import logging
import sys
import time
from pathlib import Path
from typing import Any

from src.mlops import ROOT
from src.mlops.cli import hydra_main
from src.mlops.config import Config
from src.mlops.data.prepare import SPLIT_FILES
from src.mlops.data.sources import locate_raw
from src.mlops.evaluation.evaluate import evaluate
from src.mlops.io.files import to_json
from src.mlops.io.service_process import running
from src.mlops.modelfile.checkpoint import load_checkpoint
from src.mlops.monitoring.reference import add_reference
from src.mlops.training.train import train

logger = logging.getLogger(__name__)


def quickstart(config: Config) -> None:
    """Runs all steps and prints a summary.

    Raises:
        ServiceError: The service did not start or did not answer.
    """
    started = time.perf_counter()
    train(config, on_export=add_reference)
    results = evaluate(config)
    classes = load_checkpoint(config.ckpt_path).classes
    image, class_id = _one_test_image(config)
    model_file = config.ckpt_path.with_suffix(".onnx")
    answer = _ask_service(model_file, image)
    model, reports = _shown(model_file), _shown(config.evaluation.reports_dir)
    verdict = "correct" if answer["predicted_class"] == class_id else f"wrong: the sign is {classes[class_id].name}"
    seconds = time.perf_counter() - started
    sys.stdout.write(
        f"""
In {seconds:.0f} s the network learned {len(classes)} classes from synthetic images. It classifies
{results["Accuracy"]:.1%} of {results["images"]} test images correctly.
The test images are synthetic, too, so this says little about photographs.

The service classified {_shown(image)} as {answer["class_name"]}
with a probability of {answer["probability"]:.1%}, which is {verdict}.

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


def _ask_service(model: Path, image: Path) -> dict[str, Any]:
    """Starts the service in a separate process, classifies one image, and stops the service."""
    command = [sys.executable, "-m", "src.mlops.api", "--model", str(model), "--port", "{port}"]
    with running(command, "/health/ready") as client:
        response = client.post("/cv_model/", files={"file": (image.name, image.read_bytes())})
        answer: dict[str, Any] = response.raise_for_status().json()
    logger.info("The service answered: %s", to_json(answer, ensure_ascii=False))
    return answer


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    hydra_main(quickstart)
