"""Turns the segments of past days into Parquet: `python -m src.mlops.monitoring.compact --log URL`, `inv log.compact`.

The new file is complete and checked before any segment is deleted. If the process is killed in between, records exist
twice until the next run; readers drop the second ones. Other processes can read, erase and compact at the same time:
the new file is discarded if one of its sources has changed meanwhile, so nothing is lost, and nothing that was erased
comes back.
"""

import logging
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from src.mlops.cli import new_app, typer_main
from src.mlops.errors import DataError, MissingFileError
from src.mlops.io.storage import Folder, Storage, open_storage
from src.mlops.monitoring.parquet import write_rows
from src.mlops.monitoring.read import PARQUET, day_of, read_file
from src.mlops.monitoring.schema import KINDS, Record
from src.mlops.monitoring.segments import CLOSED, RECORDS, remove_leftovers

logger = logging.getLogger(__name__)
app = new_app()


class Compacted(NamedTuple):
    """What `compact` did.

    Attributes:
        days: Number of days with a new Parquet file.
        files: Number of segments, and of older Parquet files, that it replaces.
        records: Number of records in the new files.
    """

    days: int
    files: int
    records: int


def compact(url: str, before: date | None = None) -> Compacted:
    """Replaces the closed segments of each past day (UTC) by one Parquet file.

    Segments that arrive later are added by the next run. A file is kept as it is if anything in it is damaged, or has
    fields that this release does not know.

    Args:
        url: The folder or `gs://` URL of the log.
        before: The day after the last one to compact; at most today, which is the default.

    Raises:
        StorageError: The log cannot be read or written.
    """
    storage = open_storage(url)
    if isinstance(storage, Folder):
        remove_leftovers(storage.path)
    today = datetime.now(UTC).date()
    end = min(before or today, today)
    days: dict[date, list[str]] = {}
    for name in storage.names(RECORDS):
        if name.endswith((CLOSED, PARQUET)) and (day := day_of(name)) and day < end:
            days.setdefault(day, []).append(name)
    done = [_compact_day(storage, day, names) for day, names in sorted(days.items())]
    return Compacted(*(sum(numbers) for numbers in zip(Compacted(0, 0, 0), *done, strict=True)))


def _compact_day(storage: Storage, day: date, names: list[str]) -> Compacted:
    if len(names) == 1 and names[0].endswith(PARQUET):
        return Compacted(0, 0, 0)
    sources: dict[str, str] = {}  # the files that can be replaced, and their states
    seen: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"records{PARQUET}")
        write_rows(path, _rows(storage, names, sources, seen))
        if len(sources) < 2 and not any(name.endswith(CLOSED) for name in sources):
            return Compacted(0, 0, 0)
        target = f"{RECORDS}/date={day}/compacted-{secrets.token_hex(6)}{PARQUET}"
        storage.upload(path, target)
        written = _count(storage, target)
    if written is None or any(_state(storage, name) != state for name, state in sources.items()):
        storage.remove(target)
        logger.warning("Records of %s were erased or compacted meanwhile, so they are compacted by the next run", day)
        return Compacted(0, 0, 0)
    if written != len(seen):
        storage.remove(target)
        raise DataError(
            f"Only {written:,} of {len(seen):,} records could be read back from {storage.url}/{target}. The file was "
            "deleted again, and the segments were kept. Check the disk."
        )
    for name in sources:
        storage.remove(name)
    return Compacted(1, len(sources), len(seen))


def _rows(storage: Storage, names: list[str], sources: dict[str, str], seen: set[str]) -> Iterator[Record]:
    """Yields each record once. Adds the files that can be replaced to `sources`, and the IDs of records to `seen`."""
    for name in names:
        state = _state(storage, name)
        try:
            rows: Iterable[Record] = _complete(read_file(storage, name))
            if name.endswith(CLOSED):
                rows = list(rows)  # nothing of a damaged segment is written; a Parquet file may not fit into memory
            for record in rows:
                if record["record_id"] not in seen:
                    seen.add(record["record_id"])
                    yield record
            if state:
                sources[name] = state
        except MissingFileError:
            continue
        except DataError as error:
            logger.warning("Kept %s/%s: %s", storage.url, name, error)


def _complete(rows: Iterable[Record | None]) -> Iterator[Record]:
    for row in rows:
        if row is None or not row.keys() <= KINDS.keys():
            raise DataError("it has lines that are no records of this release")
        yield row


def _count(storage: Storage, name: str) -> int | None:
    """Returns the number of readable records in a file; None if it does not exist any more."""
    try:
        return sum(record is not None for record in read_file(storage, name))
    except MissingFileError:
        return None
    except DataError:
        return 0


def _state(storage: Storage, name: str) -> str | None:
    try:
        return storage.state(name)
    except MissingFileError:
        return None


@app.command("compact")
def main(
    log: Annotated[str, typer.Option(envvar="MLOPS_LOG_URL", help="Folder or gs:// URL of the prediction log.")],
    before: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Only days before this one (UTC); default: all days before today."),
    ] = None,
) -> None:
    """Turns the segments of past days in the prediction log into one Parquet file per day."""
    done = compact(log, before.date() if before else None)
    typer.echo(f"Replaced {done.files:,} files of {done.days} days by Parquet files with {done.records:,} records.")


if __name__ == "__main__":
    typer_main(app)
