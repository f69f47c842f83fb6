"""Holds the candidate that answers the same images as the model in service, for comparison only."""

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from src.mlops.data.classes import ClassList
from src.mlops.errors import CheckpointError, MlopsError
from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile.locate import locate_model
from src.mlops.modelfile.store import SCHEME, STAGES, model_name
from src.mlops.serving import prometheus
from src.mlops.serving.model_file import in_background, load_tested, stamps, watch

logger = logging.getLogger(__name__)
State = Literal["answering", "not_loaded", "same_model", "other_classes", "other_image_size"]


class _Loaded(NamedTuple):
    classifier: Classifier
    path: Path
    states: dict[str, State]  # by the version of the model in service


class ShadowModel:
    """Holds the candidate, and replaces it when its file changes.

    Args:
        name: The name of the model, as for `locate_model`. A stage to which no version was promoted is an error here.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loaded: _Loaded | None = None
        self._is_retried = True
        self._loader = ThreadPoolExecutor(1)
        self._loading = asyncio.Lock()
        self._requested: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Loads the candidate in the background, and watches its file until the context ends."""
        try:
            async with in_background(self._load_and_watch()):
                yield
        finally:
            if self._requested:
                self._requested.cancel()
                with suppress(asyncio.CancelledError):
                    await self._requested
            self._loader.shutdown()

    def reload(self) -> None:
        """Loads the candidate again, in the background. If this fails, the previous one stays."""
        self._requested = asyncio.create_task(self._load())

    def state(self, version: str, classes: ClassList, image_size: int) -> tuple[State, Classifier | None]:
        """Returns whether the candidate answers the images of a model, or why not, and the candidate. Thread-safe.

        Args:
            version: The version of the model in service.
            classes: Its class list.
            image_size: Side of its input images in px.
        """
        loaded = self._loaded
        if loaded is None:
            return "not_loaded", None
        if version not in loaded.states:
            loaded.states[version] = _compare(loaded.classifier, version, classes, image_size)
        return loaded.states[version], loaded.classifier

    async def _load_and_watch(self) -> None:
        seen = stamps(self._name, None)
        await self._load()
        await watch(
            seen,
            lambda: stamps(self._name, self._loaded.path if self._loaded else None),
            self._load,
            is_missing=lambda: self._loaded is None and self._is_retried,
        )

    async def _load(self) -> None:
        async with self._loading:
            reference = f"{SCHEME}{model_name()}@{self._name}" if self._name in STAGES else self._name
            try:
                path = await asyncio.get_running_loop().run_in_executor(self._loader, locate_model, reference)
                candidate, _ = await load_tested(path, self._loader)
            except (MlopsError, OSError) as error:
                # Each trial of a broken file would take CPU time from the model in service.
                self._is_retried = not isinstance(error, CheckpointError)
                prometheus.show_shadow(None, None)
                kept = "keeps its previous model" if self._loaded else "does not run"
                logger.error("The shadow %s, because its model cannot be used: %s", kept, error)  # noqa: TRY400
                return
            prometheus.show_shadow(candidate, self._loaded.classifier if self._loaded else None)
            self._loaded = _Loaded(candidate, path, {})
            logger.info("Comparing with %s, version %s", path, candidate.version)


def _compare(candidate: Classifier, version: str, classes: ClassList, image_size: int) -> State:
    found: State = "answering"
    if candidate.version == version:
        found = "same_model"
    elif difference := candidate.info.classes.difference(classes):
        logger.error("The shadow does not run: %s has other classes than the model in service: %s",
                     candidate.path, difference)  # fmt: skip
        found = "other_classes"
    elif candidate.image_size != image_size:
        logger.error("The shadow does not run: %s needs images of %d px, but the model in service %d px",
                     candidate.path, candidate.image_size, image_size)  # fmt: skip
        found = "other_image_size"
    return found
