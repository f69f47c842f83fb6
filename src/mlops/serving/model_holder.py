"""Holds the model, and replaces it with a new one while the service answers requests."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

from starlette.exceptions import HTTPException

from src.mlops import ROOT
from src.mlops.errors import CheckpointError, MlopsError, RegistryError
from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile.locate import BUNDLED, locate_model
from src.mlops.modelfile.store import STAGES
from src.mlops.serving import prometheus
from src.mlops.serving.errors import NOT_LOADED
from src.mlops.serving.model_file import Stamp, in_background, load_tested, stamps, watch
from src.mlops.serving.settings import NO_MODEL, Settings
from src.mlops.serving.shadow_model import ShadowModel
from src.mlops.serving.shared import remember_classes, remembered_classes

logger = logging.getLogger(__name__)
_QUICK_SECONDS = 0.005  # faster networks run in the event loop


class ModelHolder:
    """Holds the model that the service uses.

    Args:
        settings: The settings of the service.

    Attributes:
        classifier: The model; None if no model is loaded.
        candidate: The model of the shadow; None if there is no shadow.
        is_quick: Whether the model runs in less time than handing the work to a thread would need.
    """

    def __init__(self, settings: Settings) -> None:
        self.classifier: Classifier | None = None
        self.candidate = ShadowModel(settings.shadow_model) if settings.shadow_model else None
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
        seen = stamps(self._settings.model, None)
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
        try:
            async with in_background(self._watch(seen)), self.candidate.watching() if self.candidate else nullcontext():
                yield
        finally:
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

    async def _watch(self, seen: list[Stamp]) -> None:
        if self._settings.model != NO_MODEL:
            await watch(
                seen,
                lambda: stamps(self._settings.model, self._path),
                self.reload,
                is_missing=lambda: self.classifier is None,
            )

    async def _load(self) -> tuple[Path, Classifier, float]:
        """Finds, tests and loads the model. Returns its path, the model, and its seconds per image."""
        find = asyncio.get_running_loop().run_in_executor
        path = await find(self._loader, locate_model, self._settings.model)
        if self._settings.model in STAGES and path == ROOT / BUNDLED and self._path not in (None, path):
            raise RegistryError(
                f"A version in {self._settings.model} is served, but the store of the models has none any more. "
                "Restore the stage with `inv registry.sync`."
            )
        classifier, seconds = await load_tested(path, self._loader)
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
