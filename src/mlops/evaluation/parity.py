"""Checks that torch, ONNX, HTTP, BentoML and batch prediction give the same predictions: `inv model.parity`.

The command fails if one of them differs from torch.
"""

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from src.mlops.cli import hydra_main
from src.mlops.config import Config
from src.mlops.data.prepare import prepare
from src.mlops.data.sources import locate_raw
from src.mlops.errors import DataError, ParityError
from src.mlops.inference.classifier import Classifier
from src.mlops.inference.engines import local_rows
from src.mlops.io.progress import progress_bar
from src.mlops.io.service_process import running
from src.mlops.modelfile.metadata import TOLERANCE

logger = logging.getLogger("src.mlops.evaluation.parity")
BATCH = 64
Answers = list[dict[int, float]]  # for each image: class → probability, most probable class first


def parity(config: Config) -> dict[str, tuple[int, float]]:
    """Classifies the images of `evaluation.split` through each interface and compares with the checkpoint in torch.

    Args:
        config: `ckpt_path` is the checkpoint, with its export next to it; `data.raw_dir` is the folder of the images.

    Returns:
        For each interface, the number of images with another class and the largest difference in probability.

    Raises:
        ParityError: A class differs, or a probability differs by more than 1e-4.
        DataError: There is no folder of raw images, or the split has no images.
    """
    paths = images_of(config)
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
        logger.warning("Skipping BentoML, which is not installed. Install it with `uv sync --group bento`")
        del ways["BentoML"]
    found = {name: _compare(expected, answer()) for name, answer in ways.items()}
    _show(found, len(paths))
    differing = [name for name, (classes, gap) in found.items() if classes or not gap <= TOLERANCE]
    if differing:
        raise ParityError(
            f"The predictions of {', '.join(differing)} differ from torch: other classes, or probabilities that differ "
            f"by more than {TOLERANCE:g}. Export the checkpoint again with `inv model.export`."
        )
    return found


BENTO = [sys.executable, "-m", "bentoml", "serve", "src.mlops.serving.bentoml_service:ImageClassifier", "-p", "{port}"]


def images_of(config: Config) -> list[Path]:
    """Returns the paths of the raw images of `evaluation.split`, in the order of the pack.

    Raises:
        DataError: There is no folder of raw images, or the split has no images.
    """
    return labelled_images_of(config)[0]


def labelled_images_of(config: Config) -> tuple[list[Path], NDArray[np.int64]]:
    """Returns the paths of the raw images of `evaluation.split`, in the order of the pack, and their class ids.

    Raises:
        DataError: There is no folder of raw images, or the split has no images.
    """
    raw_dir = locate_raw(config.data)
    if raw_dir is None:
        raise DataError(
            "The raw images are needed, not only the prepared data, but data.raw_dir is null. Set it to their folder: "
            "data.raw_dir=FOLDER."
        )
    arrays = prepare(config.data).load(config.evaluation.split)
    return [raw_dir / path for path in arrays.paths], arrays.labels


def _in_python(model: Path, paths: list[Path], name: str) -> Answers:
    classifier = Classifier.load(model)
    answers: Answers = []
    with progress_bar(name, len(paths)) as bar:
        for start in range(0, len(paths), BATCH):
            for prediction in classifier.classify(paths[start : start + BATCH]):
                answers.append({entry.class_id: entry.probability for entry in prediction.top_k})
                bar.update()
    return answers


def _in_batches(model: Path, paths: list[Path]) -> Answers:
    rows = local_rows(Classifier.load(model))(map(str, paths))
    return [{row["predicted_class"]: row["probability"]} for row in rows]


def _over_http(name: str, command: list[str], ready: str, model: Path, paths: list[Path]) -> Answers:
    with running(command, ready, {"MLOPS_MODEL": str(model)}) as client, progress_bar(name, len(paths)) as bar:
        answers: Answers = []
        for answer in _ask(client, paths):
            answers.append({entry["class_id"]: entry["probability"] for entry in answer["top_k"]})
            bar.update()
        return answers


def _ask(client: httpx.Client, paths: list[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        response = client.post("/cv_model/", files={"file": (path.name, path.read_bytes())})
        yield response.raise_for_status().json()


def _compare(expected: Answers, found: Answers) -> tuple[int, float]:
    """Returns the number of images with another class, and the largest difference in probability of a common class."""
    classes, gap = 0, 0.0
    for ours, theirs in zip(expected, found, strict=True):
        classes += next(iter(ours)) != next(iter(theirs))
        gap = float(np.max([gap, *(abs(ours[c] - theirs[c]) for c in ours.keys() & theirs.keys())]))  # keeps NaN
    return classes, gap


def _show(found: dict[str, tuple[int, float]], images: int) -> None:
    table = Table("interface", "images", "other class than torch", "largest difference in probability")
    for name, (classes, gap) in found.items():
        table.add_row(name, f"{images:,}", str(classes), f"{gap:.1e}")
    Console().print(table)


if __name__ == "__main__":
    hydra_main(parity)
