"""Erases what was recorded about a request: `python -m src.mlops.monitoring.erase ID --log URL`, or `inv log.erase`."""

import json
import logging
import tempfile
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from src.mlops.cli import new_app, typer_main
from src.mlops.errors import DataError, MissingFileError
from src.mlops.io.storage import Folder, Storage, open_storage
from src.mlops.monitoring.images import image_ending
from src.mlops.monitoring.labels import erase_labels
from src.mlops.monitoring.read import PARQUET, parquet_module, record_files
from src.mlops.monitoring.segments import CLOSED, IMAGES, OPEN, RECORDS, pack_lines, read_lines, remove_leftovers

logger = logging.getLogger(__name__)
app = new_app()


class Erased(NamedTuple):
    """What `erase` deleted.

    Attributes:
        records: Number of records.
        images: Number of images.
        labels: Number of labels, also of earlier ones.
        left_open: Number of files that may still be written, which were not searched.
    """

    records: int
    images: int
    labels: int
    left_open: int


def erase(url: str, request_id: str) -> Erased:
    """Deletes the records of a request, their images and their labels.

    A record is deleted as a whole: its embedding and descriptors come from the image, too. All closed segments and
    Parquet files are read, because a client can use the same ID on different days. Segments that are still written
    cannot be changed.

    Args:
        url: The folder or `gs://` URL of the log.
        request_id: ID of the request, from its header `X-Request-ID`.

    Raises:
        StorageError: The log cannot be read or written.
    """
    storage = open_storage(url)
    images = [name for name in storage.names(IMAGES) if name.endswith(image_ending(request_id))]
    for name in images:
        storage.remove(name)
    records = sum(_erase_in(storage, name, request_id) for name in record_files(storage))
    labels = erase_labels(storage, request_id)  # last: without records, nobody can add any
    left_open = sum(name.endswith(CLOSED + OPEN) for name in storage.names(RECORDS))
    if isinstance(storage, Folder):
        left_open += remove_leftovers(storage.path)
    return Erased(records, len(images), labels, left_open)


def _erase_in(storage: Storage, name: str, request_id: str) -> int:
    """Deletes the records of a request in one file. Returns their number."""
    try:
        if name.endswith(PARQUET):
            return _erase_in_parquet(storage, name, request_id)
        lines, fault = read_lines(storage.read(name))
    except MissingFileError:
        return 0  # deleted meanwhile
    if fault:
        logger.warning("Only %d records of %s/%s can be searched: %s", len(lines), storage.url, name, fault)
    kept = [line for line in lines if not _is_of(line, request_id)]
    if kept and len(kept) < len(lines):
        storage.write(name, pack_lines(kept))
    elif lines and not kept:
        storage.remove(name)
    return len(lines) - len(kept)


def _erase_in_parquet(storage: Storage, name: str, request_id: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path, others = Path(folder, "records.parquet"), Path(folder, "others.parquet")
        storage.download(name, path)
        try:
            found, kept = parquet_module(storage).write_others(path, request_id, others)
        except DataError as error:
            logger.warning("%s/%s cannot be searched: %s", storage.url, name, error)
            return 0
        if found and kept:
            storage.upload(others, name)
        elif found:
            storage.remove(name)
        return int(found)


def _is_of(line: bytes, request_id: str) -> bool:
    if request_id.encode() not in line:  # fast, and right: an ID has only characters that JSON does not escape
        return False
    try:
        return bool(json.loads(line)["request_id"] == request_id)
    except (ValueError, TypeError, KeyError):
        return True  # a damaged line: better too few records than too many


@app.command("erase")
def main(
    request_id: Annotated[str, typer.Argument(help="ID of the request, from its header X-Request-ID.")],
    log: Annotated[str, typer.Option(envvar="MLOPS_LOG_URL", help="Folder or gs:// URL of the prediction log.")],
) -> None:
    """Deletes the records of a request, their images and their labels from the prediction log."""
    erased = erase(log, request_id)
    if not any(erased):
        raise DataError(f"The prediction log at {log} has no record of the request {request_id!r}.")
    deleted = f"{erased.records} records, {erased.images} images and {erased.labels} labels"
    typer.echo(f"Erased {deleted} of the request {request_id}.")
    if erased.left_open:
        typer.echo(
            f"Not searched, because they may still be written: {erased.left_open} files. Run the command again after "
            "MLOPS_LOG_SEGMENT_SECONDS, or after ten minutes if a process was killed."
        )


if __name__ == "__main__":
    typer_main(app)
