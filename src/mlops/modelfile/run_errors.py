"""Turns what runtimes raise while they load or run a model into errors with one message. Needs no runtime itself."""

import re
from pathlib import Path

from src.mlops.errors import CheckpointError, OutOfMemoryError

# torch and ONNX Runtime report a lack of memory as a general error with one of these texts.
_NO_MEMORY = re.compile(r"out of memory|bad_alloc|(can ?not|can't|failed to|unable to) allocate", re.IGNORECASE)
_NODE = re.compile(r"while running (\w+) node\. Name:'([^']*)'")  # in messages of ONNX Runtime
_LONGEST = 200  # characters of a foreign message; --debug shows all


def run_error(path: Path, error: Exception) -> CheckpointError | OutOfMemoryError:
    """Returns the error for a model that failed when it was run.

    Args:
        path: The model file.
        error: What the runtime raised. ONNX Runtime has no public class for it.
    """
    if is_out_of_memory(error):
        return memory_error(path)
    return unusable(path, f"it fails when it is run: {_reason(error)}")


def unusable(path: Path, reason: str) -> CheckpointError:
    """Returns the error for a model that loads, but cannot classify images."""
    return CheckpointError(
        f"The model {path} cannot be used, because {reason}. Export or fetch the file again, or train a new model."
    )


def memory_error(path: Path) -> OutOfMemoryError:
    """Returns the error for a model that needs more memory than there is."""
    return OutOfMemoryError(
        f"Not enough memory to load or run the model {path}. Run fewer images at a time, end other programs, or use a "
        "smaller model."
    )


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether an error means that there was not enough memory."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if node := _NODE.search(text):
        return f"error in the node {node[2]!r} of type {node[1]}"
    return f"{type(error).__name__}: {text}"[:_LONGEST].rstrip(".")
