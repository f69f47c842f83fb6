"""Holds the model, runs what waits through it, and swaps it for a new one while requests go on.

A small picture is decoded, and a quick network run, right in the event loop: handing either to a thread costs more
than it takes. Requests that came in meanwhile then run through the network together. Large pictures and slow networks
go to threads, so that the service answers others meanwhile.
"""

import asyncio
import gc
import io
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException

from src.mlops import ROOT
from src.mlops.errors import CheckpointError, LargeImageError, MlopsError
from src.mlops.explain import explain
from src.mlops.inference import LATEST, Classifier, Prediction, latest_model, locate_model
from src.mlops.preprocessing import open_image, preprocess
from src.mlops.serving import metrics
from src.mlops.serving.problems import NOT_LOADED, RETRY_AFTER
from src.mlops.serving.settings import NO_MODEL, Settings

logger = logging.getLogger(__name__)
WATCH_SECONDS = 2.0  # between looks at the model file
RELOAD_MARK = "reload"  # file in the workers' common folder; touching it makes each of them reload
_SMALL_BYTES, _SMALL_PIXELS = 64 * 1024, 256 * 256  # pictures that are decoded in less than about a millisecond
_SLOW_PER_THREAD = 8  # large pictures, or overlays, that may wait for a thread
_QUICK_SECONDS = 0.005  # networks that answer in less run in the event loop
T = TypeVar("T")
_Stamp = tuple[str, int, int] | None  # path, time of change and size of a file


class _Waiting(NamedTuple):
    array: NDArray[np.uint8]
    classifier: Classifier
    answer: "asyncio.Future[Prediction]"
    since: float


class Engine:
    """Answers for pictures, within the bounds of the settings.

    Attributes:
        classifier: The model that is served; None where none could be loaded.
    """

    def __init__(self, settings: Settings) -> None:
        self.classifier: Classifier | None = None
        self._settings = settings
        self._path: Path | None = None
        # A large picture takes a few hundred MB while it is decoded, which each thread's allocator keeps, so there
        # are only as many threads as cores.
        self._threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads)
        self._loader = ThreadPoolExecutor(1)  # a new model does not wait behind pictures
        self._is_quick = True
        self._waiting: deque[_Waiting] = deque()
        self._admitted = 0
        self._in_pool = 0
        self._running = 0
        self._reloading = asyncio.Lock()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Loads the model and watches its file while the body lasts; a service without a model still answers."""
        seen = self._state()
        self._load_first()
        gc.collect()
        gc.freeze()  # modules and model never become garbage; looking through them took a fifth of the time
        watcher = asyncio.create_task(self._watch(seen))
        try:
            yield
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
            self._pool.shutdown()
            self._loader.shutdown()
            gc.unfreeze()

    async def classify(self, content: bytes) -> Prediction:
        """Classifies one encoded picture.

        Raises:
            HTTPException: 500 without a model, 503 when too many wait.
            ImageError: The picture cannot be used.
        """
        classifier = self.require()
        with self._admission():
            array = await self._decode(content, classifier.image_size)
            answer: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
            if not self._waiting:
                asyncio.get_running_loop().call_soon(self._run_waiting)
            self._waiting.append(_Waiting(array, classifier, answer, time.perf_counter()))
            prediction = await answer
        metrics.count(prediction)
        return prediction

    async def explain(self, content: bytes) -> bytes:
        """Lays what decided over a picture; returns a PNG.

        Raises:
            HTTPException: 500 without a model, 503 when too many wait.
            ImageError: The picture cannot be used.
            CheckpointError: The network cannot say where its evidence lies.
        """
        classifier = self.require()

        def draw() -> bytes:
            file = io.BytesIO()
            explain(classifier, content).overlay.save(file, "PNG")
            return file.getvalue()

        with self._admission():
            return await self._in_thread(draw)

    def require(self) -> Classifier:
        """Returns the model.

        Raises:
            HTTPException: 500, there is none.
        """
        if self.classifier is None:
            raise HTTPException(500, NOT_LOADED)
        return self.classifier

    async def reload(self) -> Classifier:
        """Loads the model anew, tries it, and swaps it in; requests that are under way end with the former one.

        Raises:
            MlopsError: The new model cannot be used; the former one goes on.
        """
        async with self._reloading:
            try:
                path, classifier, seconds = await asyncio.get_running_loop().run_in_executor(
                    self._loader, _load, self._settings.model
                )
            except MlopsError as error:
                metrics.RELOADS.labels("refused").inc()
                logger.error("the new model is refused, the former one goes on: %s", error)  # noqa: TRY400
                raise
            metrics.RELOADS.labels("swapped").inc()
            self._serve(path, classifier, seconds)
            return classifier

    @contextmanager
    def _admission(self) -> Iterator[None]:
        if self._admitted >= self._settings.queue_size:
            raise _come_again(f"at most {self._settings.queue_size} pictures")
        self._admitted += 1
        metrics.QUEUE_DEPTH.inc()
        try:
            yield
        finally:
            self._admitted -= 1
            metrics.QUEUE_DEPTH.dec()

    async def _decode(self, content: bytes, size: int) -> NDArray[np.uint8]:
        def decode(quick_pixels: int | None = None) -> NDArray[np.uint8]:
            with metrics.DECODE.time():
                return preprocess(open_image(content, quick_pixels=quick_pixels), size)

        if len(content) <= _SMALL_BYTES:
            with suppress(LargeImageError):
                return decode(_SMALL_PIXELS)
        return await self._in_thread(decode)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Does what takes long in a thread; few may wait for one, for each may take a second."""
        if self._in_pool >= _SLOW_PER_THREAD * self._threads:
            raise _come_again(f"at most {_SLOW_PER_THREAD * self._threads} large pictures")
        self._in_pool += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._in_pool -= 1

    def _run_waiting(self) -> None:
        """Runs the pictures at the head of the queue, at most `micro_batch`, through the network."""
        if not self._waiting or self._running >= self._threads:
            return  # another call did it, or the end of a running batch will
        classifier = self._waiting[0].classifier  # after a swap, pictures prepared for the former one still wait
        batch: list[_Waiting] = []
        while self._waiting and self._waiting[0].classifier is classifier and len(batch) < self._settings.micro_batch:
            batch.append(self._waiting.popleft())
        loop = asyncio.get_running_loop()
        if self._waiting:  # after what else the event loop has to do
            loop.call_soon(self._run_waiting)
        if self._is_quick:
            self._answer(batch, _classify(batch))
            return
        self._running += 1

        def done(run: "asyncio.Future[list[Prediction] | Exception]") -> None:
            self._running -= 1
            self._answer(batch, run.result())
            self._run_waiting()

        loop.run_in_executor(self._pool, _classify, batch).add_done_callback(done)

    @staticmethod
    def _answer(batch: list[_Waiting], found: list[Prediction] | Exception) -> None:
        for place, waiting in enumerate(batch):
            if waiting.answer.done():
                continue  # whoever asked is gone
            if isinstance(found, Exception):
                waiting.answer.set_exception(found)
            else:
                waiting.answer.set_result(found[place])

    def _load_first(self) -> None:
        if self._settings.model == NO_MODEL:
            logger.warning("serving without a model, as asked for by model=%s", NO_MODEL)
            return
        try:
            self._serve(*_load(self._settings.model))
        except MlopsError as error:
            logger.error("serving without a model: %s", error)  # noqa: TRY400 - the message says it all

    def _serve(self, path: Path, classifier: Classifier, seconds: float) -> None:
        if self.classifier is not None:
            metrics.MODEL.labels(self.classifier.version).set(0)
        metrics.MODEL.labels(classifier.version).set(1)
        self._path, self.classifier, self._is_quick = path, classifier, seconds < _QUICK_SECONDS
        logger.info("serving %s, version %s", path, classifier.version)

    async def _watch(self, seen: list[_Stamp]) -> None:
        """Reloads when the model file changed, or another worker was asked to."""
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
                pass  # told already; the next change is the next try
            except Exception:  # a disk may have a bad moment; the next look comes
                logger.exception("looking for a new model failed")

    def _state(self) -> list[_Stamp]:
        named = self._path or ROOT / Path(self._settings.model).expanduser()  # none was loaded yet, but one may come
        path = latest_model() if self._settings.model == LATEST else named
        folder = os.environ.get(metrics.FOLDER_VARIABLE)
        return [_stamp(path), _stamp(Path(folder) / RELOAD_MARK if folder else None)]


def tell_other_workers() -> None:
    """Makes every worker of this service reload its model."""
    if folder := os.environ.get(metrics.FOLDER_VARIABLE):
        (Path(folder) / RELOAD_MARK).touch()


def _stamp(path: Path | None) -> _Stamp:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (str(path), found.st_mtime_ns, found.st_size) if found else None


def _load(model: str) -> tuple[Path, Classifier, float]:
    """Finds a model, loads and tries it; returns its file, it, and the seconds that it takes for one picture."""
    path = locate_model(model)
    classifier = Classifier.load(path)
    blank = np.zeros((1, classifier.image_size, classifier.image_size, 3), np.uint8)
    try:
        outputs = classifier.run(blank)
        started = time.perf_counter()
        classifier.classify_arrays(blank)
        seconds = time.perf_counter() - started
    except Exception as error:  # ONNX Runtime has no public class for what it throws
        raise CheckpointError(f"expected {path} to classify a picture, found that it fails: {error}") from error
    if not (np.isfinite(outputs.probabilities).all() and np.isfinite(outputs.energy).all()):
        raise CheckpointError(f"expected {path} to answer with numbers, found NaN or infinity. Train anew.")
    return path, classifier, seconds


def _come_again(expected: str) -> HTTPException:
    return HTTPException(
        503, f"expected {expected} to wait, found as many already. Come again.", {"Retry-After": RETRY_AFTER}
    )


def _classify(batch: list[_Waiting]) -> list[Prediction] | Exception:
    started = time.perf_counter()
    for waiting in batch:
        metrics.QUEUE.observe(started - waiting.since)
    metrics.BATCH_SIZE.observe(len(batch))
    try:
        return batch[0].classifier.classify_arrays(np.stack([waiting.array for waiting in batch]))
    except Exception as error:  # it belongs to those who wait, or they would wait forever
        return error
    finally:
        metrics.INFERENCE.observe(time.perf_counter() - started)
