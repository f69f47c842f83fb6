"""Writes rows to a file through a journal, which makes an interrupted run resumable.

The journal is a folder next to the output: `run.json` describes the run, `rows.jsonl` has one line per row. At the end
of the run, the output is written atomically from the journal.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from filelock import FileLock, Timeout
from pyarrow import parquet

from src.mlops.errors import DataError
from src.mlops.inference.engines import SCHEMA, Row, text
from src.mlops.io.files import to_json, write_atomically

FORMATS = (".parquet", ".csv", ".jsonl")
_RUN = "run.json"
_CHUNK = 20_000  # rows in memory when the output is written from the journal
_FLUSH = 32  # rows between two flushes


class Journal:
    """The rows of a run so far. Create one with `open_journal`.

    Attributes:
        done: Number of rows.
        failed: Number of rows with an error.
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
            write_atomically(folder / _RUN, to_json(run).encode())
            return
        raise DataError(
            f"{folder} belongs to an unfinished run with different inputs or a different model. Delete the folder to "
            "start over, or choose a different --out."
        )

    def skip(self, paths: Iterable[str]) -> None:
        """Compares the rows of the journal with the first paths, and removes an incomplete last row.

        Args:
            paths: All paths of the run, in order.

        Raises:
            DataError: The paths are not those of the interrupted run.
        """
        whole, iterator = 0, iter(paths)
        with self._path.open("rb+") as file:
            for line in file:
                try:
                    row = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    row = None  # the disk was full or the power failed
                if row is None:
                    break
                path = next(iterator, None)
                if path is None or row["path"] != text(path):
                    raise DataError(
                        f"The inputs no longer contain the same images as in the unfinished run in {self._folder}. "
                        "Delete the folder to start over."
                    )
                whole += len(line)
                self._count(row)
            file.truncate(whole)

    def extend(self, rows: Iterator[Row]) -> Iterator[int]:
        """Appends rows. Yields the number of rows after each flush."""
        with self._path.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(to_json(row, ensure_ascii=False) + "\n")
                self._count(row)
                if self.done % _FLUSH == 0:
                    file.flush()
                    yield self.done

    def finish(self, out: Path) -> None:
        """Writes the output and removes the journal."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            work = Path(folder) / out.name
            self._write(work)
            work.replace(out)
        (self._folder / _RUN).unlink()  # first, because a journal without this file is ignored
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
    """Opens the journal of an output: a new one, or the journal of the same run if that was interrupted.

    Args:
        out: The output file.
        run: Description of the run as plain values. A journal with another description is rejected.

    Raises:
        DataError: The output cannot be written or has an unknown format, another run is writing it, or the journal
            belongs to another run.
    """
    if out.suffix not in FORMATS or out.is_dir():
        raise DataError(f"The output must be a file that ends in {', '.join(FORMATS)}, but is {out}.")
    folder = out.with_name(f"{out.name}.partial")
    lock = FileLock(f"{folder}.lock")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)  # the lock file is never deleted: another run could hold it already
    except (Timeout, OSError) as error:
        reason = "another run is writing it" if isinstance(error, Timeout) else error
        raise DataError(f"Cannot write {out}: {reason}.") from error
    try:
        yield Journal(folder, run)
    except OSError as error:
        raise DataError(
            f"Cannot write {out}: {error}. The rows so far are in {folder}. Run the same command again to resume."
        ) from error
    finally:
        lock.release()
