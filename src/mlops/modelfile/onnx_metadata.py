"""Adds to the metadata of an exported ONNX file. Needs no torch."""

from pathlib import Path
from typing import Any

import onnx

from src.mlops.errors import CheckpointError
from src.mlops.io.files import to_json, write_atomically


def add_metadata(path: Path, key: str, value: Any) -> None:
    """Adds an entry to the metadata of an exported file, which is replaced atomically.

    Raises:
        CheckpointError: The file cannot be read or written.
    """
    try:
        graph = onnx.load(path)
        entries = {entry.key: entry.value for entry in graph.metadata_props}
        onnx.helper.set_model_props(graph, entries | {key: to_json(value)})
        write_atomically(path, graph.SerializeToString())
    except OSError as error:
        raise CheckpointError(f"Cannot add the {key} to {path}: {error}. The file is unchanged.") from error
