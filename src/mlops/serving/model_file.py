"""Tests and loads model files, and watches them for changes."""

import asyncio
import logging
import math
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from src.mlops import ROOT
from src.mlops.errors import CheckpointError, MlopsError
from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile.locate import LATEST, latest_model
from src.mlops.serving.shared import reload_file

logger = logging.getLogger(__name__)
WATCH_SECONDS = 2.0  # interval between checks of the model file
TRIAL_SECONDS = 30.0  # limit for loading a new model and running it on a test image
RETRY_SECONDS = (5.0, 60.0)  # shortest and longest interval between attempts to load a first model
Stamp = tuple[str, int, int] | None  # path, modification time and size of a file
_tested: dict[Stamp, str] = {}  # versions of the models that passed their trial; a trial takes about a second


async def load_tested(path: Path, threads: Executor) -> tuple[Classifier, float]:
    """Tests a model in a process of its own, and loads it.

    Args:
        path: The model file.
        threads: Where it is loaded.

    Returns:
        The model, and the seconds that it needs for one image.

    Raises:
        CheckpointError: The file cannot be loaded, the model fails, or the file changed meanwhile.
        OSError: The process cannot be started.
    """
    stamp = _stamp(path)
    if stamp and stamp not in _tested:  # a missing file needs no trial to be refused
        _tested[stamp] = await _run_trial(path)
    classifier, seconds = await asyncio.get_running_loop().run_in_executor(threads, _load, path)
    if classifier.version != _tested.get(stamp):
        _tested.pop(stamp, None)  # the other content can have the same time and size
        raise CheckpointError(f"{path} changed while it was loaded. It is loaded again when the change is complete.")
    return classifier, seconds


def stamps(name: str, path: Path | None) -> list[Stamp]:
    """Returns what changes if a model must be loaded again: the stamps of its file and of the request to reload.

    Args:
        name: The configured name of the model.
        path: Its file; None if no model is loaded. In this case, a configured path can appear later.
    """
    named = path or ROOT / Path(name).expanduser()
    return [_stamp(latest_model() if name == LATEST else named), _stamp(reload_file())]


async def watch(
    seen: list[Stamp],
    find: Callable[[], list[Stamp]],
    load: Callable[[], Awaitable[object]],
    is_missing: Callable[[], bool],
) -> None:
    """Loads a model whenever its file changed, or another worker received a request to reload it. Never returns.

    Without a model, it also retries without a change: a registry may be reachable again, or the machine less busy.

    Args:
        seen: The stamps before the first attempt to load it.
        find: Returns the current stamps.
        load: Loads the model.
        is_missing: Returns whether there is no model.
    """
    now = asyncio.get_running_loop().time
    interval, longest = RETRY_SECONDS
    next_attempt = now() + interval
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        try:
            found = find()
            is_due = is_missing() and now() >= next_attempt
            if found != seen or is_due:
                if is_due:
                    interval = min(2 * interval, longest)
                    next_attempt = now() + interval
                with suppress(MlopsError):  # already logged; the next change of the file starts the next attempt
                    await load()
                seen = found
        except Exception:  # for example a temporary disk error; retried at the next poll
            logger.exception("Checking for a new model failed")


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs a coroutine, such as `watch`, until the context ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _stamp(path: Path | None) -> Stamp:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (str(path), found.st_mtime_ns, found.st_size) if found else None


def _load(path: Path) -> tuple[Classifier, float]:
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
