"""The folder that several workers share, for metrics and for requests to reload the model."""

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from src.mlops.data.classes import ClassList
from src.mlops.io.files import to_json, write_atomically

logger = logging.getLogger(__name__)
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is imported
_METRIC_KINDS = ("counter", "histogram", "gauge_livesum", "gauge_livemax")  # kinds of metrics in prometheus.py
_METRIC_BYTES = 256 * 1024  # initial size of prometheus_client's files; the metrics of all routes need 50 kB
_CLASSES = "classes.json"  # class list of the model that the service loaded first
_RELOAD = "reload"  # touching this file makes each worker reload the model


@contextmanager
def shared_folder(workers: int) -> Iterator[None]:
    """Provides the folder to the workers that are started in this context. One worker needs none."""
    os.environ.pop(FOLDER_VARIABLE, None)
    if workers == 1:
        yield
        return
    try:
        folder = tempfile.TemporaryDirectory(prefix="mlops-workers-", ignore_cleanup_errors=True)
    except OSError as error:
        logger.warning(
            "Cannot create a temporary folder: %s. /metrics and /admin/reload reach only the worker that answers. Free "
            "some disk space, or set TMPDIR to a different folder.",
            error,
        )
        yield
        return
    with folder as path:
        with suppress(OSError):  # a full disk; open_shared_folder reports it
            (Path(path) / _RELOAD).touch()
        os.environ[FOLDER_VARIABLE] = path
        yield


def open_shared_folder() -> None:
    """Prepares the folder for this worker. Call it before prometheus_client is imported.

    prometheus_client maps its files into memory. If the disk becomes full, writing to a part of the map that has no
    block on the disk yet kills the process. Therefore all blocks are written here. If that fails, this worker keeps its
    metrics to itself.
    """
    folder = _folder()
    if folder is None:
        return
    mine = [folder / f"{kind}_{os.getpid()}.db" for kind in _METRIC_KINDS]
    try:
        for path in mine:
            new = path.with_suffix(".new")
            new.write_bytes(bytes(_METRIC_BYTES))
            new.replace(path)  # another worker can read the metrics at any time, and fails for an empty file
    except OSError as error:
        logger.warning(
            "Cannot write to the folder that the workers share: %s. /metrics shows only one worker, and a request to "
            "/admin/reload reaches only the worker that answers it.",
            error,
        )
        for path in mine:
            with suppress(OSError):
                path.with_suffix(".new").unlink(missing_ok=True)
                path.unlink(missing_ok=True)
        del os.environ[FOLDER_VARIABLE]


def dead_workers() -> list[int]:
    """Returns the process IDs of workers that wrote metrics and no longer run."""
    folder = _folder()
    found = {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*.db")} if folder else set()
    return [pid for pid in found if not _is_running(pid)]


def request_reload() -> None:
    """Makes all workers of this service reload their models."""
    if folder := _folder():
        try:
            (folder / _RELOAD).touch()
        except OSError:
            logger.exception("Cannot request the other workers to reload the model")


def reload_file() -> Path | None:
    """Returns the file whose modification time changes at a request to reload, or None if there is one worker."""
    folder = _folder()
    return folder / _RELOAD if folder else None


def remember_classes(classes: ClassList) -> None:
    """Stores the class list of this service for workers that are restarted after a crash."""
    folder = _folder()
    if folder and not (folder / _CLASSES).exists():
        with suppress(OSError):  # a full disk: only the check of the class list is lost
            write_atomically(folder / _CLASSES, to_json(classes.to_dicts()).encode())


def remembered_classes() -> ClassList | None:
    """Returns the class list of this service, or None if it is not known."""
    folder = _folder()
    try:
        return ClassList.from_dicts(json.loads((folder / _CLASSES).read_bytes())) if folder else None
    except (OSError, ValueError):
        return None


def _folder() -> Path | None:
    value = os.environ.get(FOLDER_VARIABLE)
    return Path(value) if value else None


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
