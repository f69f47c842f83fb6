"""Parquet files with the records of a day. Only jobs import this module: the service has no pyarrow.

`records/date=2026-11-30/compacted-4f0c9a61b2d7.parquet` has one column per field of
docs/reference/prediction-log.md. Each page has a checksum, so damage is found when it is read.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pyarrow as pa
from pyarrow import compute, parquet

from src.mlops.errors import DataError, StorageError
from src.mlops.monitoring.schema import KINDS, Kind, Record

_ROWS = 2048  # of a row group, and in memory at the same time
_TYPES: dict[Kind, pa.DataType] = {
    "integer": pa.int64(),
    "number": pa.float64(),
    "text": pa.string(),
    "time": pa.timestamp("us", tz="UTC"),
    "flag": pa.bool_(),
    "integers": pa.list_(pa.int64()),
}
_SCHEMA = pa.schema([(name, _TYPES[kind]) for name, kind in KINDS.items()])


def write_rows(path: Path, rows: Iterable[Record]) -> None:
    """Writes records into a new file.

    Raises:
        StorageError: The file cannot be written.
    """
    rows = iter(rows)
    with _writer(path, _SCHEMA) as writer:
        while chunk := list(islice(rows, _ROWS)):
            writer.write_table(pa.Table.from_pylist(chunk, schema=_SCHEMA))


def read_rows(path: Path) -> Iterator[Record]:
    """Yields the rows of a file.

    Raises:
        DataError: The file is corrupted. The rows that were yielded before are intact.
    """
    for batch in _batches(path):
        with _reading():
            rows = batch.to_pylist()
        yield from rows


def write_others(path: Path, request_id: str, target: Path) -> tuple[int, int]:
    """Copies a file without the records of a request.

    Returns:
        The number of records of the request, and of all others.

    Raises:
        DataError: The file is corrupted, or has no request IDs.
        StorageError: The copy cannot be written.
    """
    with _reading():
        schema = parquet.read_schema(path)
    total = kept = 0
    with _writer(target, schema) as writer:
        for batch in _batches(path):
            with _reading():
                is_other = compute.not_equal(batch.column("request_id"), request_id)
            others = batch.filter(compute.fill_null(is_other, True))
            writer.write_batch(others)
            total, kept = total + len(batch), kept + len(others)
    return total - kept, kept


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    # By default, pyarrow reads the complete file ahead.
    options = {"pre_buffer": False, "buffer_size": 2**20, "page_checksum_verification": True}
    with _reading(), parquet.ParquetFile(path, **options) as file:
        yield from file.iter_batches(_ROWS)


@contextmanager
def _writer(path: Path, schema: pa.Schema) -> Iterator[parquet.ParquetWriter]:
    try:
        with parquet.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
            yield writer
    except OSError as error:
        raise StorageError(
            f"Cannot write {path}: {error}. Free some space, or set TMPDIR to a folder with more of it."
        ) from error


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    # Files of others can also have text that is not UTF-8, times that Python does not know, or other columns.
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        raise DataError(f"the Parquet file is corrupted ({error})") from error
