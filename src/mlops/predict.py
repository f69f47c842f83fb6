"""Classifies files, folders, globs and buckets: `python -m src.mlops.predict INPUT… --out predictions.parquet`.

Pictures stream through: threads decode, the network answers for a batch, its rows go to a journal beside the output. A
run that was broken off goes on where the journal ends; when all is done the journal becomes the output.
"""

import glob
import json
import logging
import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import typer
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from src.mlops.errors import DataError, ImageError, MlopsError, report
from src.mlops.files import write_atomically
from src.mlops.inference import LATEST, Classifier, locate_model
from src.mlops.preprocessing import open_image, preprocess
from src.mlops.progress import ProgressBar

logger = logging.getLogger("src.mlops.predict")
Row = dict[str, Any]
Rows = Callable[[Iterable[str]], Iterator[Row]]
SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "predicted_class": pa.int64(),
        "class_name": pa.string(),
        "probability": pa.float64(),
        "is_unknown": pa.bool_(),
        "prediction_set": pa.list_(pa.int64()),
        "model_version": pa.string(),
        "error": pa.string(),
    }
)
FORMATS = (".parquet", ".csv", ".jsonl")
RUN = "run.json"  # in the folder of a journal: what the journal is of
BATCH = 32  # images per call of the network
CHUNK = 20_000  # rows in memory when the journal becomes the output
SHOWN = 100  # rows of the table on the terminal


class Engine(StrEnum):
    """Where the work is done: in this process, or on a Ray cluster."""

    local = "local"
    ray = "ray"


def predict(inputs: Sequence[str], classifier: Classifier, rows: Rows | None = None) -> Iterator[Row]:
    """Classifies pictures one after the other.

    Args:
        inputs: Files, folders, globs, or URLs that fsspec reads, such as `gs://bucket/folder`.
        classifier: The model.
        rows: Turns paths into rows; None does so in threads of this process.

    Yields:
        A row with the fields of `SCHEMA` for each picture, in order. One that cannot be used is a row with an `error`.

    Raises:
        DataError: An input does not exist or cannot be listed, or there is no picture at all.
    """
    yield from (rows or local_rows(classifier))(_some(find_images(inputs), inputs))


def predict_to(out: Path, inputs: Sequence[str], classifier: Classifier, rows: Rows | None = None) -> tuple[int, int]:
    """Classifies pictures into a file, going on with a run that was broken off.

    Args:
        out: A `.parquet`, `.csv` or `.jsonl` file; one that exists is replaced when all is done.
        inputs: As for `predict`.
        classifier: The model.
        rows: As for `predict`.

    Returns:
        The number of pictures, and how many of them could not be used.

    Raises:
        DataError: As for `predict`; or the output cannot be written, or a broken-off run does not fit to this one.
    """
    if out.suffix not in FORMATS:
        raise DataError(f"expected an output that ends in {', '.join(FORMATS)}, found {out}.")
    if out.is_dir():
        raise DataError(f"expected a file to write, found the folder {out}.")
    total = sum(1 for _ in _some(find_images(inputs), inputs))
    folder = out.with_name(f"{out.name}.partial")
    lock = FileLock(f"{folder}.lock")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)  # the file stays: who deletes a lock may delete another's
    except (Timeout, OSError) as error:
        reason = "another run that writes it" if isinstance(error, Timeout) else error
        raise DataError(f"expected to write {out}, found: {reason}.") from error
    try:
        journal = _open_journal(folder, {"inputs": list(inputs), "model_version": classifier.version})
        paths = find_images(inputs)
        done, failed = _skip_done(journal, paths)
        if done:
            logger.info("going on after %d of %d pictures, which an earlier run did", done, total)
        with journal.open("a", encoding="utf-8") as file, ProgressBar("classifying", total) as bar:
            for row in (rows or local_rows(classifier))(paths):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                done += 1
                failed += row["error"] is not None
                if done % BATCH == 0:
                    file.flush()
                    bar.show(done)
        _write(journal, out)
        (folder / RUN).unlink()  # first: a journal without it belongs to no run
        shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"expected to write {out}, found: {error}. What was done is kept in {folder}; the same command goes on."
        ) from error
    finally:
        lock.release()
    return done, failed


def find_images(inputs: Sequence[str]) -> Iterator[str]:
    """Yields the pictures of files, folders, globs and URLs, always in the same order.

    Raises:
        DataError: An input does not exist or cannot be listed.
    """
    suffixes = tuple(Image.registered_extensions())
    for name in inputs:
        if "://" in name:
            yield from _find_remote(name, suffixes)
        elif os.path.lexists(name):
            yield from _below(Path(name), suffixes)
        elif matches := sorted(glob.glob(name, recursive=True)):  # noqa: PTH207 - a pattern may be absolute
            for match in map(Path, matches):
                if match.is_file():
                    yield str(match)
                elif "**" not in name:  # which names what is below a folder by itself
                    yield from _below(match, suffixes)
        else:
            raise DataError(f"expected a file, a folder, a glob or a URL, found nothing at {Path(name).absolute()}.")


def local_rows(classifier: Classifier) -> Rows:
    """Returns what turns paths into rows in threads of this process."""

    def rows(paths: Iterable[str]) -> Iterator[Row]:
        workers = os.cpu_count() or 1
        waiting: deque[tuple[list[str], Future[list[NDArray[np.uint8] | str]]]] = deque()
        iterator = iter(paths)
        with ThreadPoolExecutor(workers) as pool:
            while batch := list(islice(iterator, BATCH)):
                waiting.append((batch, pool.submit(_decode, batch, classifier.image_size)))
                if len(waiting) > 2 * workers:
                    yield from _rows(classifier, *_done(waiting))
            while waiting:
                yield from _rows(classifier, *_done(waiting))

    return rows


def classify_paths(classifier: Classifier, paths: Sequence[str]) -> list[Row]:
    """Classifies one batch; a picture that cannot be used becomes a row with an `error`."""
    return _rows(classifier, paths, _decode(paths, classifier.image_size))


def _some(paths: Iterator[str], inputs: Sequence[str]) -> Iterator[str]:
    found = False
    for path in paths:
        found = True
        yield path
    if not found:
        raise DataError(f"expected pictures in {', '.join(inputs) or 'the inputs'}, found none.")


def _below(path: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    if not path.is_dir():
        yield str(path)
        return
    for folder, folders, files in os.walk(path, onerror=_refuse_folder):
        folders.sort()
        yield from (str(Path(folder, file)) for file in sorted(files) if file.lower().endswith(suffixes))


def _refuse_folder(error: OSError) -> None:
    raise DataError(f"expected to read the folder {error.filename}, found: {error.strerror}.") from error


def _find_remote(url: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    try:
        filesystem, path = fsspec.url_to_fs(url)
        if filesystem.isfile(path):
            files = [path]
        elif glob.has_magic(path):
            files = sorted(filesystem.glob(path))
        else:
            files = sorted(file for file in filesystem.find(path) if file.lower().endswith(suffixes))
    except Exception as error:  # each file system has its own errors for "no such bucket" and "no permission"
        raise DataError(
            f"expected to read {url}, found: {type(error).__name__}: {error}. Check the address and your access to it; "
            "gs:// and s3:// need `uv sync --group buckets`."
        ) from error
    if not files:
        raise DataError(f"expected pictures at {url}, found none.")
    yield from map(filesystem.unstrip_protocol, files)


def _decode(paths: Sequence[str], size: int) -> list[NDArray[np.uint8] | str]:
    """Reads and preprocesses pictures; one that cannot be used gives the reason."""
    decoded: list[NDArray[np.uint8] | str] = []
    for path in paths:
        try:
            decoded.append(preprocess(open_image(_read(path) if "://" in path else path), size))
        except (ImageError, OSError) as error:
            decoded.append(str(error) or type(error).__name__)
    return decoded


def _read(url: str) -> bytes:
    try:
        with fsspec.open(url, "rb") as file:
            content: bytes = file.read()
    except Exception as error:
        raise ImageError(f"expected to read it, found: {type(error).__name__}: {error}") from error
    return content


def _done(
    waiting: deque[tuple[list[str], Future[list[NDArray[np.uint8] | str]]]],
) -> tuple[list[str], list[NDArray[np.uint8] | str]]:
    batch, decoded = waiting.popleft()
    return batch, decoded.result()


def _rows(classifier: Classifier, paths: Sequence[str], decoded: list[NDArray[np.uint8] | str]) -> list[Row]:
    usable = [array for array in decoded if not isinstance(array, str)]
    predictions = iter(classifier.classify_arrays(np.stack(usable)) if usable else [])
    rows = []
    for path, array in zip(paths, decoded, strict=True):
        row: Row = {**dict.fromkeys(SCHEMA.names), "path": _text(path)}
        if isinstance(array, str):
            row["error"] = _text(array)
        else:
            prediction = next(predictions)
            row |= {name: value for name, value in vars(prediction).items() if name in row}
        rows.append(row)
    return rows


def _text(name: str) -> str:
    """Writes a file's name as UTF-8 can hold it; bytes that are none are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _open_journal(folder: Path, run: dict[str, Any]) -> Path:
    """Makes the folder of a run's journal, or finds that of the same run that was broken off."""
    facts, journal = folder / RUN, folder / "rows.jsonl"
    try:
        if json.loads(facts.read_text()) == run:
            return journal
    except (FileNotFoundError, ValueError):
        folder.mkdir(parents=True, exist_ok=True)
        journal.write_bytes(b"")
        write_atomically(facts, json.dumps(run).encode())
        return journal
    raise DataError(
        f"expected no unfinished work at {folder}, found that of other inputs or another model. Delete the folder "
        "to begin anew, or name another --out."
    )


def _skip_done(journal: Path, paths: Iterator[str]) -> tuple[int, int]:
    """Takes from `paths` those whose rows are in the journal, and cuts off a last line that was not written out.

    Returns:
        How many they are, and how many of them have an error.
    """
    whole = done = failed = 0
    with journal.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
            except ValueError:
                break  # a disk that was full or lost power
            path = next(paths, None)
            if path is None or row["path"] != _text(path):
                raise DataError(
                    f"expected the pictures that the unfinished run in {journal.parent} had, found others. Delete the "
                    "folder to begin anew."
                )
            whole += len(line)
            done += 1
            failed += row["error"] is not None
        file.truncate(whole)
    return done, failed


def _write(journal: Path, out: Path) -> None:
    """Turns the journal into the output, all or nothing."""
    with tempfile.TemporaryDirectory(dir=journal.parent) as folder, journal.open(encoding="utf-8") as lines:
        work = Path(folder) / out.name
        chunks = iter(lambda: [json.loads(line) for line in islice(lines, CHUNK)], [])
        if out.suffix == ".jsonl":
            shutil.copyfile(journal, work)
        elif out.suffix == ".parquet":
            with parquet.ParquetWriter(work, SCHEMA) as writer:
                for chunk in chunks:
                    writer.write_table(pa.Table.from_pylist(chunk, schema=SCHEMA))
        else:
            pd.DataFrame(columns=SCHEMA.names).to_csv(work, index=False)
            for chunk in chunks:
                frame = pd.DataFrame(chunk, columns=SCHEMA.names).astype({"predicted_class": "Int64"})
                frame["prediction_set"] = [" ".join(map(str, kept or [])) for kept in frame["prediction_set"]]
                frame.to_csv(work, index=False, header=False, mode="a")
        work.replace(out)


def _show(rows: Iterator[Row]) -> tuple[int, int]:
    table = Table(Column("image", overflow="fold"), "class", "sign", "probability", "note")
    done = failed = 0
    for row in rows:
        done += 1
        failed += row["error"] is not None
        if done > SHOWN:
            continue
        if row["error"] is not None:
            table.add_row(escape(row["path"]), "", "", "", f"[red]{escape(row['error'])}[/red]")
        else:
            note = "[yellow]looks like no known sign[/yellow]" if row["is_unknown"] else ""
            cells = (row["predicted_class"], row["class_name"], f"{row['probability']:.4f}", note)
            table.add_row(escape(row["path"]), *map(str, cells))
    Console().print(table)
    if done > SHOWN:
        logger.info("and %d more; --out writes them all", done - SHOWN)
    return done, failed


def main(
    inputs: Annotated[list[str], typer.Argument(help="Pictures, folders, globs, or URLs such as gs://bucket/folder.")],
    out: Annotated[Path | None, typer.Option(help="Write .parquet, .csv or .jsonl instead of showing a table.")] = None,
    model: Annotated[str, typer.Option(help="Model file, .onnx or .pth; latest is what training made last.")] = LATEST,
    engine: Annotated[Engine, typer.Option(help="local: this process; ray: a Ray cluster.")] = Engine.local,
    workers: Annotated[int, typer.Option(min=1, help="Workers of the Ray cluster.")] = 2,
) -> None:
    """Classifies pictures; one that cannot be used becomes a row with the reason. A broken-off run goes on."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        path = locate_model(model)
        classifier = Classifier.load(path)
        rows = local_rows(classifier)
        if engine is Engine.ray:
            from src.mlops.predict_ray import ray_rows

            rows = ray_rows(path, workers)
        done, failed = predict_to(out, inputs, classifier, rows) if out else _show(predict(inputs, classifier, rows))
        if out:
            logger.info("%d pictures, %d of them unusable: %s", done, failed, out)
        if failed == done:
            raise DataError(f"expected usable pictures, found none among {done}.")
    except MlopsError as error:
        report(error)


if __name__ == "__main__":
    typer.run(main)
