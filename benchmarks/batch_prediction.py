"""Measures images per second of batch prediction, and of decoding and inference alone, which is its upper bound.

    uv run python -m benchmarks.batch_prediction data.raw_dir=../shared/gtsrb

Uses all test images and the exported model next to `ckpt_path`. Compares `predict_to` with a Parquet file and its
journal, a loop that only decodes and classifies batches in one thread, and the same loop with one decoding thread per
core. The three alternate in three trials; results are medians. Writes benchmarks/results/batch_prediction.csv.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import DECODE_AND_INFER, Row, write_results
from src.mlops.cli import Overrides, new_app, typer_main
from src.mlops.config import load_config
from src.mlops.evaluation.parity import images_of
from src.mlops.inference.batch import predict_to
from src.mlops.inference.classifier import Classifier
from src.mlops.inference.engines import BATCH
from src.mlops.preprocessing import open_image, preprocess

app = new_app()

TRIALS = 3


@app.command()
def main(overrides: Overrides) -> None:
    """Measures the three methods alternately."""
    config = load_config(overrides)
    paths = [str(path) for path in images_of(config)]
    classifier = Classifier.load(config.ckpt_path.with_suffix(".onnx"))
    ways: dict[str, Callable[[], object]] = {
        "predict to Parquet": lambda: _predict(paths, classifier),
        f"{DECODE_AND_INFER}, one thread": lambda: _one_thread(paths, classifier),
        f"{DECODE_AND_INFER}, decoding in threads": lambda: _threads(paths, classifier),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TRIALS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            rates[name].append(len(paths) / (time.perf_counter() - started))
    rows: list[Row] = [
        {
            "way": name,
            "images": len(paths),
            "trials": TRIALS,
            "images_per_second": round(statistics.median(rates[name])),
            "slowest": round(min(rates[name])),
        }
        for name in ways
    ]
    write_results("batch_prediction", rows, ("way",))


def _predict(paths: list[str], classifier: Classifier) -> None:
    with tempfile.TemporaryDirectory() as folder:
        predict_to(Path(folder, "out.parquet"), paths, classifier)


def _batches(paths: list[str]) -> list[list[str]]:
    return [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]


def _decode(paths: list[str], size: int) -> NDArray[np.uint8]:
    return np.stack([preprocess(open_image(path), size) for path in paths])


def _one_thread(paths: list[str], classifier: Classifier) -> None:
    for batch in _batches(paths):
        classifier.run(_decode(batch, classifier.image_size))


def _threads(paths: list[str], classifier: Classifier) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for images in pool.map(lambda batch: _decode(batch, classifier.image_size), _batches(paths)):
            classifier.run(images)


if __name__ == "__main__":
    typer_main(app)
