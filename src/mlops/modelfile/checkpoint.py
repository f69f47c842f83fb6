"""`best_model.pth`: one file of tensors and plain values that says all about a model.

It embeds the config, so it loads after the YAML changed, and it never runs code: it is read with torch's restricted
unpickler, and the network is built from an allow-list of classes.
"""

import io
import pickle
import platform
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.mlops.calibration import Calibration
from src.mlops.errors import CheckpointError, ConfigError
from src.mlops.files import write_atomically
from src.mlops.model import Network, build_model
from src.mlops.model_info import CLASSES, FORMAT_VERSION, ModelInfo, incomplete, read_info
from src.mlops.source import source_commit


@dataclass(frozen=True)
class Checkpoint(ModelInfo):
    """A model read from disk.

    Attributes:
        model: The network with its weights, in evaluation mode, on the CPU.
        epoch: Epoch of the weights, counted from 1.
        history: The metrics of all epochs.
    """

    model: Network
    epoch: int
    history: list[dict[str, float]]


def save_checkpoint(
    path: Path,
    *,
    state_dict: dict[str, Tensor],
    config: dict[str, Any],
    epoch: int,
    metrics: dict[str, float],
    provenance: dict[str, Any],
    calibration: Calibration,
    history: list[dict[str, float]],
) -> None:
    """Writes a checkpoint; a kill or a full disk leaves the former file as it was.

    Raises:
        CheckpointError: The file cannot be written.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "config": config,
        "state_dict": {name: tensor.detach().cpu() for name, tensor in state_dict.items()},
        "epoch": epoch,
        "metrics": metrics,
        "classes": CLASSES,
        "calibration": calibration.to_dict(),
        "history": history,
        "provenance": provenance,
    }
    write_content(path, content)


def write_content(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors and plain values as one file, all or nothing.

    Raises:
        CheckpointError: The file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise CheckpointError(f"expected to write {path}, found: {error}. The former file is untouched.") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint and builds its model.

    Args:
        path: A file that `save_checkpoint` wrote.

    Raises:
        CheckpointError: The file is absent, damaged, holds code, is of another format, or names a model outside the
            allow-list. Nothing in the file is executed.
    """
    content = read_plain(path)
    info = read_info(content, path)
    try:
        return Checkpoint(
            **vars(info),
            model=_rebuild(info.config["model"], content["state_dict"]),
            epoch=int(content["epoch"]),
            history=list(content["history"]),
        )
    except ConfigError as error:
        raise CheckpointError(f"refused {path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise incomplete(path, error) from error


def read_plain(path: Path) -> dict[str, Any]:
    """Reads a file of tensors and plain values without running anything in it.

    Raises:
        CheckpointError: The file is absent, damaged, or holds anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats: what they hold is refused below just the same
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"expected a checkpoint at {path}, found none. Train one: `inv train`.") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"expected a checkpoint at {path}, found a folder. Give the file's path.") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"refused {path}: it is damaged, or holds objects beyond tensors and plain values, which could run code. "
            "Nothing was executed. Fetch it again from a source that you trust, or train anew."
        ) from error
    except Exception as error:  # torch's reader meets damaged bytes with almost any exception
        raise CheckpointError(
            f"expected a checkpoint at {path}, found a damaged or foreign file ({type(error).__name__}). "
            "Fetch it again or train anew."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"expected a checkpoint at {path}, found a file that holds {type(content).__name__}.")
    return content


def provenance(data_fingerprint: str, seed: int) -> dict[str, Any]:
    """Tells where a model comes from: code, time, versions, data, seed."""
    return {
        "git_commit": source_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "data_fingerprint": data_fingerprint,
        "trained_on": ["train"],
        "seed": seed,
    }


def _rebuild(model_config: dict[str, Any], state_dict: dict[str, Tensor]) -> Network:
    # On the meta device no memory is taken, whatever sizes a hostile config names; the file's own tensors become
    # the weights, and they must fit.
    with torch.device("meta"):
        model = build_model(model_config)
    for name, expected in model.state_dict().items():
        found = state_dict[name]
        if (found.dtype, found.layout) != (expected.dtype, expected.layout):
            raise TypeError(f"{name} is {found.dtype} {found.layout}")
        if not found.isfinite().all():
            raise ValueError(f"{name} is not finite")
    model.load_state_dict(state_dict, assign=True)
    return model.eval()
