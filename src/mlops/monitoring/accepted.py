"""Accepted baselines: files in the storage of the prediction log, `baselines/MODEL_VERSION/TIME.npz`.

The newest is used. If none was accepted, it is the reference in the model file.
"""

from pathlib import Path, PurePosixPath

from src.mlops import ROOT
from src.mlops.errors import DataError, FileExistsInStorageError, listed
from src.mlops.inference.classifier import Classifier
from src.mlops.io.storage import Storage, open_storage
from src.mlops.monitoring.baseline import Baseline

FOLDER = "baselines"
REFERENCE = "reference"  # name of the baseline in the model file
_SUFFIX = ".npz"


def find_baseline(log: str, model: Path, name: str | None = None) -> Baseline:
    """Returns the baseline to compare with.

    Args:
        log: Folder or `gs://` URL of the prediction log.
        model: The model file.
        name: Name of an accepted baseline, such as `2026-11-30T06:00:00Z`; `reference`; or the path of an `.npz` file.
            None: the newest accepted baseline, or the reference if none was accepted.

    Raises:
        CheckpointError: The model file cannot be used.
        DataError: There is no such baseline, or its file is corrupted.
        StorageError: The log cannot be reached.
    """
    if name and name.endswith(_SUFFIX):
        return Baseline.load(ROOT / Path(name).expanduser())
    if name == REFERENCE:
        return Baseline.of_model(model)
    version = Classifier.load(model).version
    storage = open_storage(log)
    files = accepted_files(storage, version)
    if name:
        file = _file(version, name)
        if file not in files:
            names = listed([REFERENCE, *map(_stem, reversed(files))], 5)
            raise DataError(
                f"There is no baseline {name!r} of the model {version} at {storage.url}. Choose one of these: {names}. "
                "`inv drift.baselines` lists all."
            )
        return read_baseline(storage, file)
    return read_baseline(storage, files[-1]) if files else Baseline.of_model(model)


def accepted_files(storage: Storage, version: str) -> list[str]:
    """Returns the names of the files with the accepted baselines of a model version, the oldest first."""
    return [name for name in storage.names(f"{FOLDER}/{version}") if name.endswith(_SUFFIX)]


def read_baseline(storage: Storage, file: str) -> Baseline:
    """Reads an accepted baseline.

    Raises:
        DataError: The file is corrupted.
        StorageError: The file cannot be read.
    """
    try:
        return Baseline.from_bytes(storage.read(file), f"{storage.url}/{file}")
    except DataError as error:
        raise DataError(f"{error} Until then, choose another one with `--baseline`, such as {REFERENCE}.") from error


def store_baseline(log: str, baseline: Baseline) -> str:
    """Writes an accepted baseline under the time at which it was accepted. Returns its URL.

    Raises:
        DataError: Another one was accepted in the same second.
        StorageError: The file cannot be written.
    """
    origin, storage = baseline.origin, open_storage(log)
    file = _file(origin.model_version, origin.created)
    try:
        storage.create(file, baseline.to_bytes())
    except FileExistsInStorageError as error:
        raise DataError(
            f"Another baseline of the model {origin.model_version} was accepted in the same second, {origin.created}. "
            "Look at it with `inv drift.baselines`, then accept yours again."
        ) from error
    return f"{storage.url}/{file}"


def _file(version: str, name: str) -> str:
    return f"{FOLDER}/{version}/{name.replace(':', '')}{_SUFFIX}"


def _stem(file: str) -> str:
    return PurePosixPath(file).stem
