"""Reads and writes checkpoints (`best_model.pth`): the weights of a model and everything else about it in one file.

A checkpoint embeds the config, so it can still be loaded after the YAML files have changed. Loading never runs code
from the file: torch's restricted unpickler reads it, and the network is built from an allow-list of classes.
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

from src.mlops.errors import CheckpointError, ConfigError
from src.mlops.io.files import write_atomically
from src.mlops.io.git import source_commit
from src.mlops.model import Network, build_model
from src.mlops.modelfile.calibration import Calibration
from src.mlops.modelfile.metadata import CLASSES, FORMAT_VERSION, ModelInfo, incomplete, read_info


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
    """Writes a checkpoint atomically: after a kill or on a full disk, the previous file is unchanged.

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
    """Writes tensors and plain values to one file, atomically.

    Raises:
        CheckpointError: The file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise CheckpointError(f"Cannot write {path}: {error}. The previous file is unchanged.") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint and builds its model.

    Args:
        path: A file that `save_checkpoint` wrote.

    Raises:
        CheckpointError: The file is missing or corrupted, has another format, contains code, or names a model that is
            not on the allow-list. Nothing in the file is executed.
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
        raise CheckpointError(f"Cannot load {path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise incomplete(path, error) from error


def read_plain(path: Path) -> dict[str, Any]:
    """Reads a file of tensors and plain values without running code from it.

    Raises:
        CheckpointError: The file is missing or corrupted, or contains anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for old formats, whose content is checked below as well
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"No checkpoint at {path}. Train a model with `inv train`.") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path} is a folder, not a checkpoint. Give the path of the file.") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"Cannot load {path}: it is corrupted, or contains objects other than tensors and plain values, which "
            "could run code. Nothing was executed. Fetch the file again from a trusted source, or train a new model."
        ) from error
    except Exception as error:  # corrupted bytes can make torch raise almost any exception
        raise CheckpointError(
            f"{path} is corrupted or not a checkpoint ({type(error).__name__}). Fetch the file again, or train a new "
            "model with `inv train`."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a checkpoint: it must contain a dict, not a {type(content).__name__}.")
    return content


def provenance(data_fingerprint: str, seed: int) -> dict[str, Any]:
    """Returns the origin of a model: commit, time, versions, data and seed."""
    return {
        "git_commit": source_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "data_fingerprint": data_fingerprint,
        "trained_on": ["train"],
        "seed": seed,
    }


def _rebuild(model_config: dict[str, Any], state_dict: dict[str, Tensor]) -> Network:
    # The meta device allocates no memory, whatever sizes a hostile config has. The tensors of the file become the
    # weights, so they must have the expected shapes.
    with torch.device("meta"):
        model = build_model(model_config)
    for name, expected in model.state_dict().items():
        found = state_dict[name]
        if (found.dtype, found.layout) != (expected.dtype, expected.layout):
            raise TypeError(f"{name} is {found.dtype} {found.layout}, but must be {expected.dtype} {expected.layout}")
        if not found.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")
    model.load_state_dict(state_dict, assign=True)
    return model.eval()
