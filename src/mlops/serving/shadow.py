"""Lets a candidate answer the same images as the model in service, off the request path.

    answered micro-batch → bounded queue → one thread, while the model in service has nothing to do → prediction log

Shadow work is dropped first: an image that the candidate could not answer within a second is recorded without its
answer. The thread has no lower priority than the others: while it holds Python's global lock and waits for a processor,
it would block the event loop.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from src.mlops.inference.classifier import Classifier, Prediction
from src.mlops.monitoring.prediction_log import PredictionLog
from src.mlops.monitoring.record import Batch
from src.mlops.serving import prometheus
from src.mlops.serving.settings import Settings
from src.mlops.serving.shadow_model import ShadowModel

logger = logging.getLogger(__name__)
QUEUE_BYTES = 8 * 1024 * 1024  # 600 images of 48 px
PATIENCE_SECONDS = 1.0  # an image that waits longer is dropped
_QUIET_SECONDS = 0.005  # without images; under high load, the service is idle for shorter moments only
_PAUSES = (0.005, 0.05)  # seconds between two looks whether the service is idle, doubling
_SLICE = 4  # images per call of the network, which can delay a request that arrives meanwhile
_REST = 9  # times the duration of a call, before the next one: a tenth of a core at most, also if others need it
_CLOSE_SECONDS = 1.0


class Shadow:
    """Compares a candidate with the model in service.

    Args:
        settings: The settings of the service.
        model: The holder of the candidate.
        log: Records each micro-batch afterwards, with the answers of the candidate or without; None if predictions are
            not recorded.
    """

    def __init__(self, settings: Settings, model: ShadowModel, log: PredictionLog | None) -> None:
        self._model = model
        self._log = log
        # A killed service loses no records that are older than log_flush_seconds.
        self._patience = min(PATIENCE_SECONDS, settings.log_flush_seconds / 2)
        self._queue: deque[Batch] = deque()  # the first one is being answered
        self._held = 0  # bytes of the batches in the queue
        self._lock = threading.Lock()
        self._filled, self._closing = threading.Event(), threading.Event()
        self._idle_since: Callable[[], float | None] = lambda: None
        self._rests_until = 0.0
        self._failed = ""  # version of the candidate whose failure was logged
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self, idle_since: Callable[[], float | None]) -> None:
        """Starts the thread.

        Args:
            idle_since: See `Batcher.idle_since`. Called from the thread.
        """
        self._idle_since = idle_since
        self._thread.start()

    def offer(self, batch: Batch) -> None:
        """Takes a micro-batch that was answered. Never blocks for long, and never raises an error."""
        try:
            if (candidate := self._candidate_for(batch)) and self._enqueue(batch, candidate):
                return
        except Exception:
            logger.exception("The shadow cannot take images")
        self._record(batch)

    def close(self) -> None:
        """Ends the thread, and passes on the micro-batches that are left."""
        self._closing.set()
        self._filled.set()
        self._thread.join(_CLOSE_SECONDS)
        with self._lock:
            left = list(self._queue)
            self._queue.clear()
        for batch in left:
            if candidate := self._candidate_for(batch):
                _drop(batch, candidate)
            self._record(batch)

    def _record(self, batch: Batch) -> None:
        if self._log:
            self._log.append(batch)

    def _candidate_for(self, batch: Batch) -> Classifier | None:
        version = batch.predictions[0].model_version
        state, candidate = self._model.state(version, batch.classes, batch.arrays.shape[1])
        return candidate if state == "answering" else None

    def _enqueue(self, batch: Batch, candidate: Classifier) -> bool:
        with self._lock:
            if self._held + batch.nbytes <= QUEUE_BYTES:
                self._held += batch.nbytes
                self._queue.append(batch)
                self._filled.set()
                return True
        _drop(batch, candidate)
        return False

    def _run(self) -> None:
        while not self._closing.is_set():
            self._filled.wait()
            self._filled.clear()
            while self._queue and not self._closing.is_set():
                batch = self._queue[0]
                answers = self._answer(batch)
                with self._lock:
                    if not self._queue or self._queue[0] is not batch:
                        return  # `close` did not wait any longer
                    self._queue.popleft()
                    self._held -= batch.nbytes
                self._record(batch._replace(shadow=answers))

    def _answer(self, batch: Batch) -> list[Prediction] | None:
        """Returns the answers of the candidate; None if the images were dropped or it failed."""
        candidate = self._candidate_for(batch)
        if candidate is None:
            return None  # it was replaced meanwhile
        answers: list[Prediction] = []
        seconds = 0.0
        try:
            for start in range(0, len(batch.arrays), _SLICE):
                if not self._waits_until_idle(batch):
                    _drop(batch, candidate)
                    return None
                started = time.perf_counter()
                answers += candidate.classify_arrays(batch.arrays[start : start + _SLICE])
                took = time.perf_counter() - started
                seconds += took
                self._rests_until = started + (1 + _REST) * took
        except Exception as error:  # a model can fail for some images
            prometheus.count_shadow(candidate.version, "failed", len(batch.predictions))
            if self._failed != candidate.version:
                logger.warning("The shadow cannot answer an image, further failures are only counted: %s", error)
                self._failed = candidate.version
            return None
        prometheus.observe_shadow(batch.predictions, answers, seconds / len(answers))
        return answers

    def _waits_until_idle(self, batch: Batch) -> bool:
        """Waits until the model in service has nothing to do. Returns whether this happened in time."""
        pause, longest = _PAUSES
        while (now := time.perf_counter()) - batch.answered <= self._patience and not self._closing.is_set():
            since = self._idle_since()
            if since is not None and now - since >= _QUIET_SECONDS and now >= self._rests_until:
                return True
            self._closing.wait(pause)
            pause = min(2 * pause, longest)
        return False


def _drop(batch: Batch, candidate: Classifier) -> None:
    prometheus.count_shadow(candidate.version, "dropped", len(batch.predictions))
