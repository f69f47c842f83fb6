"""Batch prediction on a Ray cluster: `--engine ray`. Local by default; `RAY_ADDRESS` names a remote one."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from src.mlops import ROOT
from src.mlops.errors import DataError
from src.mlops.inference import Classifier
from src.mlops.predict import BATCH, CHUNK, Row, Rows, classify_paths


class _Worker:
    """One process of the cluster, with a classifier of its own."""

    def __init__(self, model: Path) -> None:
        self._classifier = Classifier.load(model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = classify_paths(self._classifier, [str(path) for path in batch["path"]])
        return {"row": rows}


def ray_rows(model: Path, workers: int) -> Rows:
    """Returns what turns paths into rows on a Ray cluster, in order.

    Args:
        model: The model file; on a remote cluster each machine must have it, and the pictures, at the same path.
        workers: How many processes classify at the same time.

    Raises:
        DataError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise DataError("expected Ray for --engine ray, found none. Install it: `uv sync --group ray`.") from error

    def rows(paths: Iterable[str]) -> Iterator[Row]:
        iterator = iter(paths)
        started = not ray.is_initialized()
        if started:
            ray.init(log_to_driver=False, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
        try:
            context = ray.data.DataContext.get_current()
            context.execution_options.preserve_order = True
            context.enable_progress_bars = False
            while items := [{"path": path} for path in islice(iterator, CHUNK)]:
                data = ray.data.from_items(items).map_batches(
                    _Worker, fn_constructor_args=(model,), batch_size=BATCH, concurrency=workers
                )
                for found in data.iter_rows():
                    yield found["row"]
        except (OSError, RuntimeError) as error:
            raise DataError(f"expected a Ray cluster that works, found: {type(error).__name__}: {error}") from error
        finally:
            if started:
                ray.shutdown()

    return rows
