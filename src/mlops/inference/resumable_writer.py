"""Rows → a file, by way of a journal, so that a run that was broken off goes on.

The journal is a folder beside the output: `run.json` says what it is of, `rows.jsonl` has a line for each row. When all
is done it becomes the output, all or nothing.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from filelock import FileLock, Timeout
from pyarrow import parquet

from src.mlops.errors import DataError
from src.mlops.files import write_atomically
from src.mlops.rows import SCHEMA, Row, text

FORMATS = (".parquet", ".csv", ".jsonl")
_RUN = "run.json"
_CHUNK = 20_000  # rows in memory when the journal becomes the output
_FLUSH = 32  # rows between two flushes


class Journal:
    """The rows of a run so far; use `open_journal`.

    Attributes:
        done: How many rows there are.
        failed: How many of them have an error.
    """

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self._folder = folder
        self._path = folder / "rows.jsonl"
        self.done = self.failed = 0
        try:
            if json.loads((folder / _RUN).read_text()) == run:
                return
        except (FileNotFoundError, ValueError):
            folder.mkdir(parents=True, exist_ok=True)
            self._path.write_bytes(b"")
            write_atomically(folder / _RUN, json.dumps(run).encode())
            return
        raise DataError(
            f"expected no unfinished work at {folder}, found that of other inputs or another model. Delete the folder "
            "to begin anew, or name another --out."
        )

    def skip(self, paths: Iterator[str]) -> None:
        """Takes from `paths` those whose rows are there, and cuts off what was not written out.

        Raises:
            DataError: The paths are not those that the run had.
        """
        whole = 0
        with self._path.open("rb+") as file:
            for line in file:
                try:
                    row = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    row = None  # a disk that was full or lost power
                if row is None:
                    break
                path = next(paths, None)
                if path is None or row["path"] != text(path):
                    raise DataError(
                        f"expected the pictures that the unfinished run in {self._folder} had, found others. Delete "
                        "the folder to begin anew."
                    )
                whole += len(line)
                self._count(row)
            file.truncate(whole)

    def extend(self, rows: Iterator[Row]) -> Iterator[int]:
        """Adds rows; yields now and then how many there are."""
        with self._path.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                self._count(row)
                if self.done % _FLUSH == 0:
                    file.flush()
                    yield self.done

    def finish(self, out: Path) -> None:
        """Makes the output, and removes the journal."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            work = Path(folder) / out.name
            self._write(work)
            work.replace(out)
        (self._folder / _RUN).unlink()  # first: a journal without it belongs to no run
        shutil.rmtree(self._folder, ignore_errors=True)

    def _count(self, row: Row) -> None:
        self.done += 1
        self.failed += row["error"] is not None

    def _write(self, work: Path) -> None:
        if work.suffix == ".jsonl":
            shutil.copyfile(self._path, work)
            return
        with self._path.open(encoding="utf-8") as lines:
            chunks = iter(lambda: [json.loads(line) for line in islice(lines, _CHUNK)], [])
            if work.suffix == ".parquet":
                with parquet.ParquetWriter(work, SCHEMA) as writer:
                    for chunk in chunks:
                        writer.write_table(pa.Table.from_pylist(chunk, schema=SCHEMA))
                return
            pd.DataFrame(columns=SCHEMA.names).to_csv(work, index=False)
            for chunk in chunks:
                frame = pd.DataFrame(chunk, columns=SCHEMA.names).astype({"predicted_class": "Int64"})
                frame["prediction_set"] = [" ".join(map(str, kept or [])) for kept in frame["prediction_set"]]
                frame.to_csv(work, index=False, header=False, mode="a")


@contextmanager
def open_journal(out: Path, run: dict[str, Any]) -> Iterator[Journal]:
    """Opens the journal of an output, a new one or that of the same run that was broken off.

    Args:
        out: The output.
        run: What is done, as plain values; a journal of anything else is refused.

    Raises:
        DataError: The output cannot be written, has no known format, or another run writes it or left unfinished work.
    """
    if out.suffix not in FORMATS or out.is_dir():
        raise DataError(f"expected a file to write that ends in {', '.join(FORMATS)}, found {out}.")
    folder = out.with_name(f"{out.name}.partial")
    lock = FileLock(f"{folder}.lock")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)  # the file stays: who deletes a lock may delete another's
    except (Timeout, OSError) as error:
        reason = "another run that writes it" if isinstance(error, Timeout) else error
        raise DataError(f"expected to write {out}, found: {reason}.") from error
    try:
        yield Journal(folder, run)
    except OSError as error:
        raise DataError(
            f"expected to write {out}, found: {error}. What was done is kept in {folder}; the same command goes on."
        ) from error
    finally:
        lock.release()
