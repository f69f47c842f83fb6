"""Classifies files, folders, globs and buckets.

The data flow is inputs → paths (`inputs.py`) → rows (`engines.py`) → journal → output file (`resumable_writer.py`).
Images are streamed: only a few batches are in memory at a time.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from src.mlops.inference.classifier import Classifier
from src.mlops.inference.engines import Row, Rows, local_rows
from src.mlops.inference.inputs import Images, find_images
from src.mlops.inference.resumable_writer import open_journal
from src.mlops.io.progress import progress_bar

logger = logging.getLogger(__name__)


def predict(inputs: Sequence[str], classifier: Classifier, rows: Rows | None = None) -> Iterator[Row]:
    """Classifies images and yields one row per image.

    Args:
        inputs: Files, folders, globs, or URLs that fsspec reads, such as `gs://bucket/folder`.
        classifier: The model.
        rows: Function that turns paths into rows. None uses threads of this process.

    Yields:
        A row with the fields of `SCHEMA` for each image, in order. If an image cannot be used, its row has an `error`.

    Raises:
        DataError: An input does not exist or cannot be listed, or the inputs contain no image.
        CheckpointError: The model fails.
        OutOfMemoryError: There is not enough memory.
    """
    if rows is None:
        yield from local_rows(classifier)(find_images(inputs))
        return
    _count(inputs)  # an engine may list the inputs in another process, whose warnings are lost
    yield from rows(Images(inputs))


def predict_to(out: Path, inputs: Sequence[str], classifier: Classifier, rows: Rows | None = None) -> tuple[int, int]:
    """Classifies images and writes the rows to a file. Resumes an interrupted run.

    Args:
        out: A `.parquet`, `.csv` or `.jsonl` file. An existing file is overwritten at the end of the run.
        inputs: As for `predict`.
        classifier: The model.
        rows: As for `predict`.

    Returns:
        The number of images, and the number of images that could not be used.

    Raises:
        DataError: As for `predict`; or the output cannot be written; or the journal of an interrupted run belongs to
            other inputs or another model.
    """
    total = _count(inputs)
    with open_journal(out, {"inputs": list(inputs), "model_version": classifier.version}) as journal:
        journal.skip(Images(inputs))
        if journal.done:
            logger.info("Resuming an interrupted run: %d of %d images are done", journal.done, total)
        with progress_bar("classifying", total) as bar:
            for done in journal.extend((rows or local_rows(classifier))(Images(inputs, journal.done))):
                bar.update(done - bar.n)
        journal.finish(out)
    return journal.done, journal.failed


def _count(inputs: Sequence[str]) -> int:
    """Returns the number of images. Reports errors and warnings about the inputs, wherever they are listed later."""
    return sum(1 for _ in find_images(inputs))
