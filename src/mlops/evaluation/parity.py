"""The same answer everywhere: torch, ONNX, HTTP, BentoML and batch prediction on the same pictures.

`python -m src.mlops.parity`, or `inv parity`, ends with an error when one of them differs.
"""

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from src.mlops.config import Config, hydra_main
from src.mlops.data.prepare import prepare
from src.mlops.data.sources import locate_raw
from src.mlops.errors import DataError, ParityError
from src.mlops.export import TOLERANCE
from src.mlops.inference import Classifier
from src.mlops.progress import ProgressBar
from src.mlops.rows import local_rows
from src.mlops.service_process import running

logger = logging.getLogger("src.mlops.parity")
BATCH = 64
Answers = list[dict[int, float]]  # of each picture the probabilities of the classes that were answered, best first


def parity(config: Config) -> dict[str, tuple[int, float]]:
    """Classifies the pictures of `evaluation.split` in every way and compares with the checkpoint in torch.

    Args:
        config: `ckpt_path` names the checkpoint, whose export lies beside it; `data.raw_dir` the pictures.

    Returns:
        For each way how many classes differ, and the largest difference of a probability.

    Raises:
        ParityError: A class differs, or a probability by more than 1e-4.
        DataError: There are no pictures to read.
    """
    paths = pictures_of(config)
    onnx = config.ckpt_path.with_suffix(".onnx")
    expected = _in_python(config.ckpt_path, paths, "torch")
    ways: dict[str, Callable[[], Answers]] = {
        "ONNX": lambda: _in_python(onnx, paths, "ONNX"),
        "batch prediction": lambda: _in_batches(onnx, paths),
        "HTTP": lambda: _over_http(
            "HTTP", [sys.executable, "-m", "src.mlops.api", "--port", "{port}"], "/health/ready", onnx, paths
        ),
        "BentoML": lambda: _over_http("BentoML", BENTO, "/readyz", onnx, paths),
    }
    if importlib.util.find_spec("bentoml") is None:
        logger.warning("BentoML is left out: it is not installed (`uv sync --group bento`)")
        del ways["BentoML"]
    found = {name: _compare(expected, answer()) for name, answer in ways.items()}
    _show(found, len(paths))
    differing = [name for name, (classes, gap) in found.items() if classes or not gap <= TOLERANCE]
    if differing:
        raise ParityError(
            f"expected the same classes and probabilities within {TOLERANCE:g} everywhere, found others by "
            f"{', '.join(differing)}. Export the checkpoint again: `inv export`."
        )
    return found


BENTO = [sys.executable, "-m", "bentoml", "serve", "src.mlops.bentoml_service:SignClassifier", "-p", "{port}"]


def pictures_of(config: Config) -> list[Path]:
    """Returns the raw pictures of `evaluation.split`, in the order of the pack.

    Raises:
        DataError: There is no raw folder.
    """
    raw_dir = locate_raw(config.data)
    if raw_dir is None:
        raise DataError("expected data.raw_dir to name the pictures, found null. Packed images are not enough here.")
    return [raw_dir / path for path in prepare(config.data).load(config.evaluation.split).paths]


def _in_python(model: Path, paths: list[Path], name: str) -> Answers:
    classifier = Classifier.load(model)
    answers: Answers = []
    with ProgressBar(name, len(paths)) as bar:
        for start in range(0, len(paths), BATCH):
            for prediction in classifier.classify(paths[start : start + BATCH]):
                answers.append({entry.class_id: entry.probability for entry in prediction.top_k})
            bar.show(len(answers))
    return answers


def _in_batches(model: Path, paths: list[Path]) -> Answers:
    rows = local_rows(Classifier.load(model))(map(str, paths))
    return [{row["predicted_class"]: row["probability"]} for row in rows]


def _over_http(name: str, command: list[str], ready: str, model: Path, paths: list[Path]) -> Answers:
    with running(command, ready, {"MLOPS_MODEL": str(model)}) as client, ProgressBar(name, len(paths)) as bar:
        answers: Answers = []
        for answer in _ask(client, paths):
            answers.append({entry["class_id"]: entry["probability"] for entry in answer["top_k"]})
            bar.show(len(answers))
        return answers


def _ask(client: httpx.Client, paths: list[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        response = client.post("/cv_model/", files={"file": (path.name, path.read_bytes())})
        yield response.raise_for_status().json()


def _compare(expected: Answers, found: Answers) -> tuple[int, float]:
    """Returns how many first classes differ, and the largest difference of a probability that both name."""
    classes, gap = 0, 0.0
    for ours, theirs in zip(expected, found, strict=True):
        classes += next(iter(ours)) != next(iter(theirs))
        gap = float(np.max([gap, *(abs(ours[c] - theirs[c]) for c in ours.keys() & theirs.keys())]))  # keeps NaN
    return classes, gap


def _show(found: dict[str, tuple[int, float]], pictures: int) -> None:
    table = Table("way", "pictures", "other classes than torch", "largest difference of a probability")
    for name, (classes, gap) in found.items():
        table.add_row(name, f"{pictures:,}", str(classes), f"{gap:.1e}")
    Console().print(table)


if __name__ == "__main__":
    hydra_main(parity)
