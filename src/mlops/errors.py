"""The errors a user can meet, and how a command line shows them.

Every message says what was expected, what was found, where, and what to do next.
"""

import os
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pydantic import ValidationError


class MlopsError(Exception):
    """Base of all errors that carry a message for the user."""


class ConfigError(MlopsError):
    """A setting is missing, unknown, or out of its range."""


class DataError(MlopsError):
    """The data is absent, unreadable, or contradicts itself."""


class ImageError(MlopsError):
    """One picture cannot be used."""


class UnsupportedImageError(ImageError):
    """The bytes are no picture, or a picture of a format that is not accepted."""


class LargeImageError(ImageError):
    """The picture takes too long to decode where it was tried."""


class CheckpointError(MlopsError):
    """A model file is absent, damaged, hostile, or of another format."""


class ParityError(MlopsError):
    """Two forms of a model answer differently."""


class TrainingError(MlopsError):
    """Training cannot go on."""


class CloudError(MlopsError):
    """A step in Google Cloud failed."""


class ServiceError(MlopsError):
    """The service cannot start."""


class StorageError(MlopsError):
    """A file in a folder or a bucket cannot be read or written."""


class MissingFileError(StorageError):
    """There is no such file."""


class FileExistsInStorageError(StorageError):
    """There is such a file already."""


class UnreachableError(StorageError):
    """A bucket cannot be reached, or not be used."""


class RegistryError(MlopsError):
    """A version of the model is unknown, incomplete, or cannot be changed."""


class GateError(MlopsError):
    """A model is not good enough to be promoted."""


def report(error: MlopsError) -> NoReturn:
    """Ends a command line: prints the error's one message to stderr and exits with code 1.

    With `HYDRA_FULL_ERROR=1` in the environment (or `--debug`, which sets it) the error is raised with its traceback.
    """
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    sys.stderr.write(f"error: {error}\n")
    sys.exit(1)


def describe(error: "ValidationError") -> list[str]:
    """Says in one line each what is wrong with which setting."""
    lines = []
    for fault in error.errors():
        unknown = fault["type"] == "extra_forbidden"
        reason = "there is no such key" if unknown else f"{fault['msg']}, found {fault['input']!r}"
        lines.append(f"{'.'.join(map(str, fault['loc']))}: {reason}")
    return lines
