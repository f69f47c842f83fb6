"""Reads and writes checkpoints (`best_model.pth`): the weights of a model and everything else about it in one file.

A checkpoint embeds the config, so it can still be loaded after the YAML files have changed. Loading never runs code
from the file: torch's restricted unpickler reads it, and the network is built from an allow-list of classes.
"""

import io
import pickle
import platform
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.mlops.data.classes import ClassList
from src.mlops.errors import CheckpointError, ConfigError, MlopsError
from src.mlops.io.files import write_atomically
from src.mlops.io.git import source_commit
from src.mlops.model import Network, build_model, predict_logits
from src.mlops.modelfile.calibration import Calibration
from src.mlops.modelfile.metadata import FORMAT_VERSION, ModelInfo, incomplete, read_info, require_size
from src.mlops.modelfile.run_errors import is_out_of_memory, memory_error, run_error, unusable


@dataclass(frozen=True)
class Checkpoint(ModelInfo):
    """A model read from disk.

    Attributes:
        path: The file.
        model: The network with its weights, in evaluation mode, on the CPU.
        epoch: Epoch of the weights, counted from 1.
        history: The metrics of all epochs.
    """

    path: Path
    model: Network
    epoch: int
    history: list[dict[str, float]]

    def logits(
        self, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device | None = None
    ) -> NDArray[np.float32]:
        """Runs the model over batches of images and labels.

        Args:
            batches: Images and labels; the labels are not used.
            device: The device to run on; the model stays on it. None leaves the model where it is.

        Returns:
            Logits, float32 [N, C], in the order of the images.

        Raises:
            CheckpointError: The model fails, or returns NaN or infinity.
            OutOfMemoryError: There is not enough memory.
        """
        try:
            logits = predict_logits(self.model.to(device), batches)
        except (MlopsError, OSError):  # from the batches
            raise
        except Exception as error:  # torch raises many types of errors
            raise run_error(self.path, error) from error
        if not np.isfinite(logits).all():
            raise unusable(self.path, "it returns NaN or infinity for some images")
        return logits


def save_checkpoint(
    path: Path,
    *,
    state_dict: dict[str, Tensor],
    config: dict[str, Any],
    classes: ClassList,
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
        "classes": classes.to_dicts(),
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
        OutOfMemoryError: There is not enough memory.
    """
    content = read_plain(path)
    info = read_info(content, path)
    try:
        return Checkpoint(
            **vars(info),
            path=path,
            model=_rebuild(info, content["state_dict"]),
            epoch=int(content["epoch"]),
            history=list(content["history"]),
        )
    except ConfigError as error:
        raise CheckpointError(f"Cannot load {path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, MemoryError) as error:
        if is_out_of_memory(error):
            raise memory_error(path) from error
        raise incomplete(path, error) from error


def read_plain(path: Path) -> dict[str, Any]:
    """Reads a file of tensors and plain values without running code from it.

    Raises:
        CheckpointError: The file is missing or corrupted, contains anything else, or is larger than a model can be.
        OutOfMemoryError: There is not enough memory.
    """
    try:
        require_size(path, _loaded_bytes(path))
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
    except CheckpointError:
        raise
    except PermissionError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}. Change the permissions of the file.") from error
    except Exception as error:  # corrupted bytes can make torch raise almost any exception
        if is_out_of_memory(error):
            raise memory_error(path) from error
        raise CheckpointError(
            f"{path} is corrupted or not a checkpoint ({type(error).__name__}). Fetch the file again, or train a new "
            "model with `inv train`."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a checkpoint: it must contain a dict, not a {type(content).__name__}.")
    return content


def _loaded_bytes(path: Path) -> int:
    """Returns the size of a file, or of its content if it is an archive. torch also reads compressed archives."""
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        return size
    with zipfile.ZipFile(path) as archive:
        return max(size, sum(entry.file_size for entry in archive.infolist()))


def provenance(data_fingerprint: str, seed: int, image_sketch: str | None = None) -> dict[str, Any]:
    """Returns the origin of a model: commit, time, versions, data, seed, and the sketch of its images if known."""
    return {
        "git_commit": source_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "data_fingerprint": data_fingerprint,
        "trained_on": ["train"],
        "seed": seed,
        "image_sketch": image_sketch,
    }


def _rebuild(info: ModelInfo, state_dict: dict[str, Tensor]) -> Network:
    # The meta device allocates no memory, whatever sizes a hostile config has. The tensors of the file become the
    # weights, so they must have the expected shapes.
    with torch.device("meta"):
        model = build_model(info.config["model"], len(info.classes))
    for name, expected in model.state_dict().items():
        found = state_dict[name]
        if (found.dtype, found.layout) != (expected.dtype, expected.layout):
            raise TypeError(f"{name} is {found.dtype} {found.layout}, but must be {expected.dtype} {expected.layout}")
        if not found.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")
    model.load_state_dict(state_dict, assign=True)
    return model.eval()
