"""Measures one variant of a model in this process, for `benchmarks.variants`. Imports torch only if needed."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
from numpy.typing import NDArray

from src.mlops.inference.classifier import Classifier
from src.mlops.io.files import to_json
from src.mlops.preprocessing import open_image, preprocess

# The variants, with the suffix of the file next to the checkpoint.
FORMS = {
    "torch": ".pth",
    "torch.compile": ".pth",
    "ONNX Runtime": ".onnx",
    "ONNX Runtime without graph optimisation": ".onnx",
    "OpenVINO": ".onnx",
    "fp16, ONNX Runtime": ".fp16.onnx",
    "fp16, OpenVINO": ".fp16.onnx",
    "int8, ONNX Runtime": ".int8.onnx",
    "int8, OpenVINO": ".int8.onnx",
    "pruned, ONNX Runtime": ".pruned.onnx",
    "pruned, OpenVINO": ".pruned.onnx",
}
IMAGES = 400
Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def load(form: str, path: Path, threads: int) -> Run:
    """Loads a variant of a model.

    Args:
        form: A key of `FORMS`.
        path: The model file.
        threads: Number of threads to use.

    Returns:
        A function from images, uint8 [N, 3, S, S], to probabilities, float32 [N, 43].
    """
    if form.endswith("OpenVINO"):
        return _openvino(path, threads)
    if form == "torch.compile":
        return _compiled(path, threads)
    if form.endswith("without graph optimisation"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda images: session.run(["probabilities"], {"images": images})[0]
    classifier = Classifier.load(path, threads)
    return lambda images: classifier.run(images.transpose(0, 2, 3, 1)).probabilities


def _compiled(path: Path, threads: int) -> Run:
    import torch

    from src.mlops.modelfile.checkpoint import load_checkpoint
    from src.mlops.modelfile.deployed import Deployed

    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(path)
    compiled = torch.compile(Deployed(checkpoint.model, checkpoint.calibration.temperature), dynamic=True)

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(compiled(torch.from_numpy(np.ascontiguousarray(images)))[0].numpy())

    return run


def _openvino(path: Path, threads: int) -> Run:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda images: np.array(request.infer({"images": np.ascontiguousarray(images)})["probabilities"])


def measure(form: str, path: Path, threads: int, folder: Path) -> dict[str, Any]:
    """Measures one variant on `images.npy` in a folder, and writes the predicted classes to `predicted.npy` there.

    Args:
        form: A key of `FORMS`.
        path: The model file.
        threads: Number of threads to use.
        folder: The folder with the images.

    Returns:
        The columns of the result.
    """
    images = np.ascontiguousarray(np.load(folder / "images.npy").transpose(0, 3, 1, 2))
    process = psutil.Process()
    run = load(form, path, threads)
    run(images[:1])
    starting = time.time() - process.create_time()
    some = images[:IMAGES]
    run(some[:32])
    singly = sorted(_seconds(run, some[number : number + 1]) for number in range(len(some)))
    batches = [_seconds(run, some[start : start + 32]) for _ in range(3) for start in range(0, len(some) - 31, 32)]
    memory = process.memory_info().rss / 1e6 - images.nbytes / 1e6
    predicted = [run(images[start : start + 256]).argmax(axis=1) for start in range(0, len(images), 256)]
    np.save(folder / "predicted.npy", np.concatenate(predicted))
    return {
        "start_seconds": round(starting, 2),
        "resident_mb": round(memory),
        **{f"p{p}_ms": round(1000 * singly[min(len(singly) * p // 100, len(singly) - 1)], 3) for p in (50, 95, 99)},
        "images_per_second": round(32 / statistics.median(batches)),
        "preprocess_ms": _preprocessing(folder, images.shape[-1]),
        "onnxruntime": onnxruntime.__version__,
    }


def _seconds(run: Run, images: NDArray[np.uint8]) -> float:
    started = time.perf_counter()
    run(images)
    return time.perf_counter() - started


def _preprocessing(folder: Path, size: int) -> float | str:
    """Returns the median milliseconds for decoding and resizing image files in memory, or "" without files."""
    if not (folder / "files.json").is_file():
        return ""
    contents = [Path(name).read_bytes() for name in json.loads((folder / "files.json").read_text())]
    times = []
    for content in contents:
        started = time.perf_counter()
        preprocess(open_image(content), size)
        times.append(time.perf_counter() - started)
    return round(1000 * statistics.median(times), 3)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    name, model, count, place = sys.argv[1:]
    os.environ["OMP_NUM_THREADS"] = count
    sys.stdout.write(to_json(measure(name, Path(model), int(count), Path(place))))
