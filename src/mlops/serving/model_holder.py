"""Holds the model, and replaces it with a new one while the service answers requests."""

import asyncio
import gc
import logging
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
from starlette.exceptions import HTTPException

from src.mlops import ROOT
from src.mlops.errors import CheckpointError, MlopsError
from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile.locate import LATEST, latest_model, locate_model
from src.mlops.serving import prometheus
from src.mlops.serving.errors import NOT_LOADED
from src.mlops.serving.settings import NO_MODEL, Settings

logger = logging.getLogger(__name__)
WATCH_SECONDS = 2.0  # interval between checks of the model file
RELOAD_MARK = "reload"  # file in the shared folder of the workers; touching it makes each of them reload the model
_QUICK_SECONDS = 0.005  # faster networks run in the event loop
_Stamp = tuple[str, int, int] | None  # path, modification time and size of a file


class ModelHolder:
    """Holds the model that the service uses.

    Args:
        settings: The settings of the service.

    Attributes:
        classifier: The model; None if no model is loaded.
        is_quick: Whether the model runs in less time than handing the work to a thread would need.
    """

    def __init__(self, settings: Settings) -> None:
        self.classifier: Classifier | None = None
        self.is_quick = True
        self._settings = settings
        self._path: Path | None = None
        self._loader = ThreadPoolExecutor(1)  # separate, because loading a model must not wait for images
        self._reloading = asyncio.Lock()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Loads the model, and watches its file until the context ends.

        The service also starts if the model cannot be loaded.
        """
        seen = self._state()
        self._load_first()
        gc.collect()
        gc.freeze()  # modules and model never become garbage; scanning them took a fifth of the time
        watcher = asyncio.create_task(self._watch(seen))
        try:
            yield
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
            self._loader.shutdown()
            gc.unfreeze()

    def require(self) -> Classifier:
        """Returns the model.

        Raises:
            HTTPException: 500, no model is loaded.
        """
        if self.classifier is None:
            raise HTTPException(500, NOT_LOADED)
        return self.classifier

    async def reload(self) -> Classifier:
        """Loads the model again, tests it, and replaces the current one. Running requests finish with the old model.

        Returns:
            The new model.

        Raises:
            MlopsError: The new model cannot be used. The previous one stays in service.
        """
        async with self._reloading:
            try:
                path, classifier, seconds = await asyncio.get_running_loop().run_in_executor(
                    self._loader, _load, self._settings.model
                )
            except MlopsError as error:
                prometheus.RELOADS.labels("refused").inc()
                logger.error("Kept the previous model, because the new one cannot be used: %s", error)  # noqa: TRY400
                raise
            prometheus.RELOADS.labels("swapped").inc()
            self._serve(path, classifier, seconds)
            return classifier

    def _load_first(self) -> None:
        if self._settings.model == NO_MODEL:
            logger.warning("Serving without a model (model=%s)", NO_MODEL)
            return
        try:
            self._serve(*_load(self._settings.model))
        except MlopsError as error:
            logger.error("Serving without a model: %s", error)  # noqa: TRY400 - the message is enough, without traceback

    def _serve(self, path: Path, classifier: Classifier, seconds: float) -> None:
        if self.classifier is not None:
            prometheus.MODEL.labels(self.classifier.version).set(0)
        prometheus.MODEL.labels(classifier.version).set(1)
        self._path, self.classifier, self.is_quick = path, classifier, seconds < _QUICK_SECONDS
        logger.info("Serving %s, version %s", path, classifier.version)

    async def _watch(self, seen: list[_Stamp]) -> None:
        """Reloads the model if its file changed or if another worker received a request to reload it."""
        if self._settings.model == NO_MODEL:
            return
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                found = self._state()
                if found != seen:
                    seen = found
                    await self.reload()
            except MlopsError:
                pass  # already logged; the next change of the file starts the next attempt
            except Exception:  # for example a temporary disk error; retried at the next poll
                logger.exception("Checking for a new model failed")

    def _state(self) -> list[_Stamp]:
        # Without a loaded model, watch the configured path: the file can appear later.
        named = self._path or ROOT / Path(self._settings.model).expanduser()
        path = latest_model() if self._settings.model == LATEST else named
        folder = os.environ.get(prometheus.FOLDER_VARIABLE)
        return [_stamp(path), _stamp(Path(folder) / RELOAD_MARK if folder else None)]


def tell_other_workers() -> None:
    """Makes all other workers of this service reload their models."""
    if folder := os.environ.get(prometheus.FOLDER_VARIABLE):
        (Path(folder) / RELOAD_MARK).touch()


def _stamp(path: Path | None) -> _Stamp:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (str(path), found.st_mtime_ns, found.st_size) if found else None


def _load(model: str) -> tuple[Path, Classifier, float]:
    """Finds, loads and tests a model. Returns its path, the model, and the seconds that it needs for one image."""
    path = locate_model(model)
    classifier = Classifier.load(path)
    blank = np.zeros((1, classifier.image_size, classifier.image_size, 3), np.uint8)
    try:
        outputs = classifier.run(blank)
        started = time.perf_counter()
        classifier.classify_arrays(blank)
        seconds = time.perf_counter() - started
    except Exception as error:  # ONNX Runtime has no public base class for its errors
        raise CheckpointError(f"The model {path} failed on a test image: {error}") from error
    if not (np.isfinite(outputs.probabilities).all() and np.isfinite(outputs.energy).all()):
        raise CheckpointError(f"The model {path} returned NaN or infinity for a test image. Train the model again.")
    return path, classifier, seconds
