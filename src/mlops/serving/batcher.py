"""Micro-batches queued images, runs them through the network, and limits the length of the queue.

The event loop itself decodes small images and runs fast networks, because handing them to a thread would take longer
than the work. Requests that arrive meanwhile form the next batch. Large images and slow networks run in threads, which
leaves the event loop free for other requests.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException

from src.mlops.errors import LargeImageError
from src.mlops.inference.classifier import Classifier, Prediction
from src.mlops.inference.explain import explain
from src.mlops.monitoring.jpeg import jpeg_quality
from src.mlops.monitoring.prediction_log import PredictionLog
from src.mlops.monitoring.record import Batch, Origin
from src.mlops.preprocessing import open_image, preprocess
from src.mlops.serving import prometheus
from src.mlops.serving.errors import RETRY_AFTER
from src.mlops.serving.logs import REQUEST_ID
from src.mlops.serving.model_holder import ModelHolder
from src.mlops.serving.settings import Settings
from src.mlops.serving.shadow import Shadow

_SMALL_BYTES, _SMALL_PIXELS = 64 * 1024, 256 * 256  # such an image is decoded in less than about a millisecond
_SLOW_PER_THREAD = 8  # large images and saliency maps that can wait for one thread
T = TypeVar("T")


class _Decoded(NamedTuple):
    array: NDArray[np.uint8]
    width: int  # of the upright image, before preprocessing
    height: int


class _Waiting(NamedTuple):
    array: NDArray[np.uint8]
    classifier: Classifier
    answer: "asyncio.Future[Prediction]"
    since: float
    origin: Origin | None  # None if predictions are not recorded


class Batcher:
    """Classifies and explains images within the limits of the settings.

    Args:
        settings: The settings of the service.
        models: The holder of the current model.
        log: The prediction log; None if predictions are not recorded.
        shadow: Compares a candidate, and passes its micro-batches on to the log; None if there is none.
    """

    def __init__(
        self, settings: Settings, models: ModelHolder, log: PredictionLog | None = None, shadow: Shadow | None = None
    ) -> None:
        self._settings = settings
        self._models = models
        self._log = log
        self._take = shadow.offer if shadow else log.append if log else None
        # Decoding a large image needs a few hundred MB, and the allocator of each thread keeps that memory. Therefore
        # there are only as many threads as cores.
        self._threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads)
        self._waiting: deque[_Waiting] = deque()
        self._admitted = 0
        self._idle_since = time.perf_counter()
        self._in_pool = 0
        self._running = 0

    @property
    def idle_since(self) -> float | None:
        """When the last image was answered, as `time.perf_counter()`; None while there are images. Thread-safe."""
        return None if self._admitted else self._idle_since

    def close(self) -> None:
        """Waits until all threads have finished."""
        self._pool.shutdown()

    async def classify(self, content: bytes, number: int = 0) -> Prediction:
        """Classifies one encoded image.

        Args:
            content: The bytes of the image file.
            number: Position of the image in its request, from 0.

        Returns:
            The prediction.

        Raises:
            HTTPException: 500 if no model is loaded, 503 if the queue is full.
            ImageError: The image cannot be used.
        """
        classifier = self._models.require()
        arrived = time.perf_counter()
        with self._admission():
            decoded = await self._decode(content, classifier.image_size)
            origin = self._origin(content, decoded, arrived, number) if self._log else None
            answer: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
            if not self._waiting:
                asyncio.get_running_loop().call_soon(self._run_waiting)
            self._waiting.append(_Waiting(decoded.array, classifier, answer, time.perf_counter(), origin))
            prediction = await answer
        prometheus.count(prediction)
        return prediction

    async def explain(self, content: bytes) -> bytes:
        """Draws the saliency map of one encoded image.

        Args:
            content: The bytes of the image file.

        Returns:
            The saliency map over the image, as the bytes of a PNG file.

        Raises:
            HTTPException: 500 if no model is loaded, 503 if the queue is full.
            ImageError: The image cannot be used.
            NoSaliencyError: The network does not support saliency maps.
        """
        classifier = self._models.require()
        with self._admission():
            return await self._in_thread(lambda: explain(classifier, content).to_png())

    @contextmanager
    def _admission(self) -> Iterator[None]:
        if self._admitted >= self._settings.queue_size:
            raise _overloaded(f"The queue is full ({self._settings.queue_size} images).")
        self._admitted += 1
        prometheus.QUEUE_DEPTH.inc()
        try:
            yield
        finally:
            self._admitted -= 1
            self._idle_since = time.perf_counter()
            prometheus.QUEUE_DEPTH.dec()

    def _origin(self, content: bytes, decoded: _Decoded, arrived: float, number: int) -> Origin:
        kept = content if self._log and self._log.keeps_images else None
        return Origin(REQUEST_ID.get(), arrived, decoded.width, decoded.height, jpeg_quality(content), kept, number)

    async def _decode(self, content: bytes, size: int) -> _Decoded:
        def decode(quick_pixels: int | None = None) -> _Decoded:
            with prometheus.DECODE.time():
                image = open_image(content, quick_pixels=quick_pixels)
                return _Decoded(preprocess(image, size), *image.size)

        if len(content) <= _SMALL_BYTES:
            with suppress(LargeImageError):
                return decode(_SMALL_PIXELS)
        return await self._in_thread(decode)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Runs slow work in a thread. The queue for threads is short, because each entry can take a second."""
        if self._in_pool >= _SLOW_PER_THREAD * self._threads:
            raise _overloaded(
                f"The queue for large images and saliency maps is full ({_SLOW_PER_THREAD * self._threads} images)."
            )
        self._in_pool += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._in_pool -= 1

    def _run_waiting(self) -> None:
        """Runs the first images of the queue, at most `micro_batch`, through the network."""
        if not self._waiting or self._running >= self._threads:
            return  # the queue is empty, or the end of a running batch calls this method again
        classifier = self._waiting[0].classifier  # after a model change, images prepared for the previous model remain
        batch: list[_Waiting] = []
        while self._waiting and self._waiting[0].classifier is classifier and len(batch) < self._settings.micro_batch:
            batch.append(self._waiting.popleft())
        loop = asyncio.get_running_loop()
        if self._waiting:  # let the event loop do its other work first
            loop.call_soon(self._run_waiting)
        if self._models.is_quick:
            self._answer(batch, _classify(batch, self._take))
            return
        self._running += 1

        def done(run: "asyncio.Future[list[Prediction] | Exception]") -> None:
            self._running -= 1
            self._answer(batch, run.result())
            self._run_waiting()

        loop.run_in_executor(self._pool, _classify, batch, self._take).add_done_callback(done)

    @staticmethod
    def _answer(batch: list[_Waiting], found: list[Prediction] | Exception) -> None:
        for place, waiting in enumerate(batch):
            if waiting.answer.done():
                continue  # the client closed the connection
            if isinstance(found, Exception):
                waiting.answer.set_exception(found)
            else:
                waiting.answer.set_result(found[place])


def _overloaded(reason: str) -> HTTPException:
    return HTTPException(503, f"{reason} Try again in a moment.", {"Retry-After": RETRY_AFTER})


def _classify(batch: list[_Waiting], take: Callable[[Batch], None] | None) -> list[Prediction] | Exception:
    started = time.perf_counter()
    for waiting in batch:
        prometheus.QUEUE.observe(started - waiting.since)
    prometheus.BATCH_SIZE.observe(len(batch))
    classifier = batch[0].classifier
    try:
        arrays = np.stack([waiting.array for waiting in batch])
        outputs = classifier.run(arrays)
        predictions = classifier.predictions(outputs)
    except Exception as error:  # returned to the waiting requests, which would otherwise wait forever
        return error
    finally:
        prometheus.INFERENCE.observe(time.perf_counter() - started)
    if take:
        origins = [waiting.origin for waiting in batch if waiting.origin]
        take(
            Batch(
                time.time(),
                time.perf_counter(),
                classifier.info.classes,
                arrays,
                outputs.embedding,
                outputs.energy,
                predictions,
                origins,
            )
        )
    return predictions
