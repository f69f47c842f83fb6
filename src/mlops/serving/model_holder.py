"""Holds the model, and replaces it with a new one while the service answers requests."""

import asyncio
import gc
import logging
import math
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
from starlette.exceptions import HTTPException

from src.mlops import ROOT
from src.mlops.errors import CheckpointError, MlopsError, RegistryError
from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile.locate import BUNDLED, LATEST, latest_model, locate_model
from src.mlops.modelfile.store import STAGES
from src.mlops.serving import prometheus
from src.mlops.serving.errors import NOT_LOADED
from src.mlops.serving.settings import NO_MODEL, Settings
from src.mlops.serving.shared import reload_file, remember_classes, remembered_classes

logger = logging.getLogger(__name__)
WATCH_SECONDS = 2.0  # interval between checks of the model file
TRIAL_SECONDS = 30.0  # limit for loading a new model and running it on a test image
RETRY_SECONDS = (5.0, 60.0)  # shortest and longest interval between attempts to load a first model
_QUICK_SECONDS = 0.005  # faster networks run in the event loop
_Stamp = tuple[str, int, int] | None  # path, modification time and size of a file
_tested: dict[_Stamp, str] = {}  # versions of the models that passed their trial; a trial takes about a second


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
        if self._settings.model == NO_MODEL:
            logger.warning("Serving without a model (model=%s)", NO_MODEL)
        else:
            try:
                self._serve(*await self._load())
            except MlopsError as error:
                logger.error("Serving without a model: %s", error)  # noqa: TRY400 - the message is enough, without traceback
            except OSError:  # for example too many processes for the trial
                logger.exception("Serving without a model")
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
                path, classifier, seconds = await self._load()
            except MlopsError as error:
                prometheus.REFUSED.inc()
                kept = "Kept the previous model, because the new one" if self.classifier else "The model"
                logger.error("%s cannot be used: %s", kept, error)  # noqa: TRY400
                raise
            prometheus.SWAPPED.inc()
            self._serve(path, classifier, seconds)
            return classifier

    def _serve(self, path: Path, classifier: Classifier, seconds: float) -> None:
        prometheus.show_model(classifier, self.classifier)
        remember_classes(classifier.info.classes)
        self._path, self.classifier, self.is_quick = path, classifier, seconds < _QUICK_SECONDS
        logger.info("Serving %s, version %s", path, classifier.version)

    async def _watch(self, seen: list[_Stamp]) -> None:
        """Reloads the model if its file changed, or if another worker received a request to reload it.

        Without a model, it also retries without a change: a registry may be reachable again, or the machine less busy.
        """
        if self._settings.model == NO_MODEL:
            return
        now = asyncio.get_running_loop().time
        interval, longest = RETRY_SECONDS
        next_attempt = now() + interval
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                found = self._state()
                is_due = self.classifier is None and now() >= next_attempt
                if found != seen or is_due:
                    if is_due:
                        interval = min(2 * interval, longest)
                        next_attempt = now() + interval
                    with suppress(MlopsError):  # already logged; the next change of the file starts the next attempt
                        await self.reload()
                    seen = found
            except Exception:  # for example a temporary disk error; retried at the next poll
                logger.exception("Checking for a new model failed")

    def _state(self) -> list[_Stamp]:
        # Without a loaded model, watch the configured path: the file can appear later.
        named = self._path or ROOT / Path(self._settings.model).expanduser()
        path = latest_model() if self._settings.model == LATEST else named
        return [_stamp(path), _stamp(reload_file())]

    async def _load(self) -> tuple[Path, Classifier, float]:
        """Finds, tests and loads the model. Returns its path, the model, and its seconds per image."""
        in_thread = asyncio.get_running_loop().run_in_executor
        path = await in_thread(self._loader, locate_model, self._settings.model)
        if self._settings.model in STAGES and path == ROOT / BUNDLED and self._path not in (None, path):
            raise RegistryError(
                f"A version in {self._settings.model} is served, but the store of the models has none any more. "
                "Restore the stage with `inv registry.sync`."
            )
        stamp = _stamp(path)
        if stamp and stamp not in _tested:  # a missing file needs no trial to be refused
            _tested[stamp] = await _run_trial(path)
        classifier, seconds = await in_thread(self._loader, _load, path)
        if classifier.version != _tested.get(stamp):
            _tested.pop(stamp, None)  # the other content can have the same time and size
            raise CheckpointError(
                f"{path} changed while it was loaded. It is loaded again when the change is complete."
            )
        self._require_same_classes(path, classifier)
        return path, classifier, seconds

    def _require_same_classes(self, path: Path, classifier: Classifier) -> None:
        """Raises an error if a model would change what the class ids in the answers mean."""
        remembered = self.classifier.info.classes if self.classifier else remembered_classes()
        if remembered is None or self._settings.allow_other_classes:
            return
        if difference := classifier.info.classes.difference(remembered):
            raise CheckpointError(
                f"{path} has other classes than the model in service: {difference}. Clients would misread its answers. "
                "To replace the model anyway, restart the service, or set MLOPS_ALLOW_OTHER_CLASSES=true."
            )


def _stamp(path: Path | None) -> _Stamp:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (str(path), found.st_mtime_ns, found.st_size) if found else None


def _load(path: Path) -> tuple[Classifier, float]:
    """Loads a model. Returns it and the seconds that it needs for one image."""
    classifier = Classifier.load(path)
    blank = np.zeros((1, classifier.image_size, classifier.image_size, 3), np.uint8)
    classifier.classify_arrays(blank)  # the first run is slower
    started = time.perf_counter()
    classifier.classify_arrays(blank)
    return classifier, time.perf_counter() - started


async def _run_trial(path: Path) -> str:
    """Returns the version of a model that passed its trial in a separate process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "src.mlops.serving.trial", str(path), str(math.ceil(TRIAL_SECONDS) + 1)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TRIAL_SECONDS):
            version, message = await process.communicate()
    except TimeoutError as error:
        raise CheckpointError(
            f"The model {path} did not classify a test image within {TRIAL_SECONDS:.0f} s."
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        reason = message.decode(errors="replace").strip()[-2000:] or f"its process ended with {process.returncode}"
        raise CheckpointError(reason)
    return version.decode()
