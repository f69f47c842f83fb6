"""Errors that are shown to the user.

Each message says what happened, the value found, the value allowed, and what to do next.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

_LONGEST = 200  # characters of a value in a message


class MlopsError(Exception):
    """Base class of all errors with a message for the user."""


class ConfigError(MlopsError):
    """A setting is missing, unknown, or out of its range."""


class DataError(MlopsError):
    """The data is missing, unreadable or inconsistent."""


class NothingLabelledError(DataError):
    """No image of the prediction log has a label that can be used."""


class ImageError(MlopsError):
    """An image cannot be used."""


class UnsupportedImageError(ImageError):
    """The bytes are not an image in an accepted format."""


class LargeImageError(ImageError):
    """The image is too large to decode in the current thread."""


class CheckpointError(MlopsError):
    """A model file is missing, corrupted, malicious, or has an unsupported format."""


class NoSaliencyError(CheckpointError):
    """The network does not support saliency maps."""


class OutOfMemoryError(MlopsError, MemoryError):
    """The memory is too small for a model and its images. The model file itself may be fine."""


class ParityError(MlopsError):
    """Two forms of a model give different results."""


class TrainingError(MlopsError):
    """Training cannot continue."""


class CloudError(MlopsError):
    """A step in Google Cloud failed."""


class ServiceError(MlopsError):
    """The service cannot start."""


class StorageError(MlopsError):
    """A file in a folder or a bucket cannot be read or written."""


class MissingFileError(StorageError):
    """The file does not exist."""


class FileExistsInStorageError(StorageError):
    """The file already exists."""


class UnreachableError(StorageError):
    """A bucket cannot be reached, or access to it is denied."""


class GitError(MlopsError):
    """Git is missing, or a Git command failed."""


class RegistryError(MlopsError):
    """A version of the model is unknown, incomplete, or cannot be changed."""


class NotPromotedError(RegistryError):
    """No version was ever promoted to a stage."""


class BusyError(RegistryError):
    """Another process is changing the registry at the same time. The command can be run again."""


class GateError(MlopsError):
    """A model is not good enough to be promoted."""


def describe(error: "ValidationError") -> list[str]:
    """Returns one message for each setting that is unknown or invalid."""
    lines = []
    for fault in error.errors():
        if fault["type"] == "extra_forbidden":
            reason = "this key does not exist"
        elif fault["type"] == "value_error":  # from a validator of this project, whose message has the value
            reason = str(fault["ctx"]["error"])
        elif fault["type"] == "missing":
            reason = "this key is missing"
        else:
            reason = f"{fault['msg']}, but is {shorten(fault['input'])}"
        place = ".".join(map(str, fault["loc"]))  # empty for a rule about several settings
        lines.append(f"{place}: {reason}" if place else reason)
    return lines


def listed(names: Sequence[str], most: int) -> str:
    """Returns the first names, separated by commas, and how many there are more."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shorten(value: object) -> str:
    """Returns the `repr` of a value found in a configuration; of a long value only the beginning."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
