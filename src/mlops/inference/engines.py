"""Turns paths into rows with predictions, in threads of this process or on a Ray cluster (`--engine ray`).

Ray runs locally by default. Set `RAY_ADDRESS` to use a remote cluster.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from src.mlops import ROOT
from src.mlops.errors import CheckpointError, DataError, ImageError, OutOfMemoryError
from src.mlops.inference.classifier import Classifier
from src.mlops.inference.inputs import read_image
from src.mlops.preprocessing import open_image, preprocess

Row = dict[str, Any]
Rows = Callable[[Iterable[str]], Iterator[Row]]
SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "predicted_class": pa.int64(),
        "class_name": pa.string(),
        "probability": pa.float64(),
        "is_unknown": pa.bool_(),
        "prediction_set": pa.list_(pa.int64()),
        "model_version": pa.string(),
        "error": pa.string(),
    }
)
FAULTS = {kind.__name__: kind for kind in (DataError, CheckpointError, OutOfMemoryError)}  # that end a run on Ray
BATCH = 32  # images per call of the network
BLOCK_BYTES = 16_384  # of paths per task of a Ray worker; Ray's default would be a million paths


def local_rows(classifier: Classifier) -> Rows:
    """Returns a function that turns paths into rows, in threads of this process."""

    def rows(paths: Iterable[str]) -> Iterator[Row]:
        workers = os.cpu_count() or 1
        waiting: deque[tuple[list[str], Future[list[NDArray[np.uint8] | str]]]] = deque()
        iterator = iter(paths)

        def oldest() -> list[Row]:
            batch, decoded = waiting.popleft()
            return _rows(classifier, batch, decoded.result())

        with ThreadPoolExecutor(workers) as pool:
            while batch := list(islice(iterator, BATCH)):
                waiting.append((batch, pool.submit(_decode, batch, classifier.image_size)))
                if len(waiting) > 2 * workers:
                    yield from oldest()
            while waiting:
                yield from oldest()

    return rows


def ray_rows(model: Path, workers: int) -> Rows:
    """Returns a function that turns paths into rows on a Ray cluster, in order.

    The iterable of the paths is sent to a worker, which iterates over it, so `Images` lists the inputs there. The
    workers read and classify the images. Only the rows pass through this process.

    Args:
        model: The model file. Each machine of a remote cluster must have it and the images at the same path.
        workers: Number of processes that classify in parallel.

    Raises:
        DataError: Ray is not installed.
    """
    # Under `uv run`, Ray creates a separate environment for each worker, without the packages of the group ray.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError as error:
        raise DataError(
            "--engine ray needs Ray, which is not installed. Install it with `uv sync --group ray`."
        ) from error

    def rows(paths: Iterable[str]) -> Iterator[Row]:
        started = not ray.is_initialized()
        if started:
            ray.init(log_to_driver=False, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
        try:
            context = ray.data.DataContext.get_current()
            context.execution_options.preserve_order = True
            context.enable_progress_bars = False
            context.target_max_block_size = BLOCK_BYTES
            # The worker that lists the paths only waits for the disk. It gets no CPU, because the others may need all.
            found = (
                ray.data.from_items([0])
                .map_batches(lambda _: _list(paths), num_cpus=0)
                .map_batches(
                    _Worker,
                    fn_constructor_args=(model,),
                    batch_size=BATCH,
                    compute=ray.data.ActorPoolStrategy(size=workers),
                )
            )
            for row in found.iter_rows():
                if row["fault"]:
                    raise FAULTS[row["fault"]](row["row"]["error"])
                yield row["row"]
        except (OSError, RuntimeError, ray.exceptions.RayError) as error:
            cause = getattr(error, "cause", error)  # the error in a worker, without its traceback as text
            raise DataError(f"The Ray cluster failed: {type(cause).__name__}: {cause}") from error
        finally:
            if started:
                ray.shutdown()

    return rows


def text(name: str) -> str:
    """Returns a text as valid UTF-8. Bytes that are not valid UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _list(paths: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yields batches of paths in a Ray worker. They are bytes, because names of files need not be valid UTF-8."""
    iterator = iter(paths)
    try:
        while batch := [os.fsencode(path) for path in islice(iterator, BATCH)]:
            yield {"path": batch, "fault": [""] * len(batch)}
    except DataError as error:
        yield {"path": [b""], "fault": [str(error)]}


class _Worker:
    """One process of the Ray cluster with its own classifier."""

    def __init__(self, model: Path) -> None:
        self._classifier = Classifier.load(model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        paths = [os.fsdecode(path) for path in batch["path"] if path]
        # Ray would add the traceback of this process to the message of an error, so the message becomes a row.
        faults = [("DataError", fault) for fault in batch["fault"] if fault]
        try:
            rows = _rows(self._classifier, paths, _decode(paths, self._classifier.image_size))
        except tuple(FAULTS.values()) as error:
            rows, faults = [], [(type(error).__name__, str(error))]
        return {
            "fault": [*("" for _ in rows), *(kind for kind, _ in faults)],
            "row": [*rows, *({**dict.fromkeys(SCHEMA.names), "error": message} for _, message in faults)],
        }


def _decode(paths: Sequence[str], size: int) -> list[NDArray[np.uint8] | str]:
    """Reads and preprocesses images. Returns the reason instead if an image cannot be used."""
    decoded: list[NDArray[np.uint8] | str] = []
    for path in paths:
        try:
            decoded.append(preprocess(open_image(read_image(path)), size))
        except (ImageError, OSError) as error:
            decoded.append(str(error) or type(error).__name__)
    return decoded


def _rows(classifier: Classifier, paths: Sequence[str], decoded: list[NDArray[np.uint8] | str]) -> list[Row]:
    usable = [array for array in decoded if not isinstance(array, str)]
    predictions = iter(classifier.classify_arrays(np.stack(usable)) if usable else [])
    rows = []
    for path, array in zip(paths, decoded, strict=True):
        row: Row = {**dict.fromkeys(SCHEMA.names), "path": text(path)}
        if isinstance(array, str):
            row["error"] = text(array)
        else:
            prediction = next(predictions)
            row |= {name: value for name, value in vars(prediction).items() if name in row}
        rows.append(row)
    return rows
