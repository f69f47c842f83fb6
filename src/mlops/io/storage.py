"""One interface for files in a local folder and in a bucket.

Each operation transfers a complete, checked file or raises an error. `gs://` URLs need `uv sync --group buckets`; its
packages are imported on first use. `STORAGE_EMULATOR_HOST` is the address of an emulator, as for Google's own clients.
"""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import Protocol, TypeVar

from filelock import FileLock

from src.mlops import ROOT
from src.mlops.errors import FileExistsInStorageError, MissingFileError, StorageError
from src.mlops.io.files import write_atomically

BUCKET = "gs://"
T = TypeVar("T")


class Storage(Protocol):
    """A folder of files. Names are relative to the folder, with `/` as separator."""

    url: str

    def names(self, folder: str = "") -> list[str]:
        """Returns the sorted names of all files below a folder; an empty list if it does not exist."""

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Returns the same names with the sizes of the files in bytes."""

    def read(self, name: str) -> bytes:
        """Returns the content of a file.

        Raises:
            MissingFileError: The file does not exist.
            UnreachableError: The bucket cannot be reached.
        """

    def write(self, name: str, content: bytes) -> None:
        """Writes a file atomically. An existing file is overwritten."""

    def create(self, name: str, content: bytes, replaces: str | None = None) -> None:
        """Creates a file. If several processes do this at the same time, exactly one succeeds.

        Args:
            name: Name of the file.
            content: Its content.
            replaces: The state (`state`) of the file that may be replaced; None if there must be no file.

        Raises:
            FileExistsInStorageError: The file exists, and has another state.
        """

    def download(self, name: str, target: Path) -> None:
        """Downloads a file. If this fails, `target` is unchanged."""

    def upload(self, source: Path, name: str) -> None:
        """Uploads a file of any size. An existing file is overwritten."""

    def state(self, name: str) -> str:
        """Returns a text that changes with each write to the file.

        Raises:
            MissingFileError: The file does not exist.
        """

    def remove(self, name: str) -> None:
        """Deletes a file. A missing file is no error."""


def open_storage(url: str) -> Storage:
    """Opens a folder or a `gs://` URL. Relative paths start at the repository root.

    Raises:
        StorageError: The URL has an unsupported scheme, or the packages for buckets are missing.
    """
    if url.startswith(BUCKET):
        from src.mlops.io.bucket import Bucket

        return Bucket(url)
    if "://" in url:
        raise StorageError(f"The URL {url!r} is not supported. Use a folder or a {BUCKET} URL.")
    return Folder(ROOT / Path(url).expanduser())


class Folder:
    """A folder on this machine.

    Args:
        path: Path of the folder; it is created by the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)

    def names(self, folder: str = "") -> list[str]:
        """See `Storage`."""
        return list(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """See `Storage`."""
        found = {}
        for path in (self.path / folder).rglob("*"):
            with suppress(OSError):  # another process removed it, or it is a link to nothing
                if not path.name.startswith(".") and S_ISREG((facts := path.stat()).st_mode):
                    found[path.relative_to(self.path).as_posix()] = facts.st_size
        return dict(sorted(found.items()))

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        return self._try(name, lambda: (self.path / name).read_bytes())

    def write(self, name: str, content: bytes) -> None:
        """See `Storage`."""
        self._try(name, lambda: write_atomically(self.path / name, content))

    def create(self, name: str, content: bytes, replaces: str | None = None) -> None:
        """See `Storage`."""
        if replaces is None:
            self._try(name, lambda: self._create(self.path / name, content))
        else:
            self._try(name, lambda: self._replace(name, content, replaces))

    def download(self, name: str, target: Path) -> None:
        """See `Storage`."""
        content = self.read(name)
        try:
            write_atomically(target, content)
        except OSError as error:
            raise StorageError(f"Cannot copy {self.path / name} to {target}: {error}.") from error

    def upload(self, source: Path, name: str) -> None:
        """See `Storage`."""
        self._try(name, lambda: write_atomically(self.path / name, source.read_bytes()))

    def state(self, name: str) -> str:
        """See `Storage`."""
        facts = self._try(name, (self.path / name).stat)
        return f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ino}"

    def remove(self, name: str) -> None:
        """See `Storage`."""
        self._try(name, lambda: (self.path / name).unlink(missing_ok=True))

    def _create(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            os.link(file.name, path)  # unlike a rename, this fails if the file exists

    def _replace(self, name: str, content: bytes, state: str) -> None:
        path = self.path / name
        with FileLock(path.with_name(f".{path.name}.lock")):
            if self.state(name) != state:
                raise FileExistsInStorageError(f"The file {path} has changed in the meantime.")
            self.write(name, content)

    def _try(self, name: str, work: Callable[[], T]) -> T:
        path = self.path / name
        try:
            return work()
        except FileExistsError as error:
            raise FileExistsInStorageError(f"The file {path} already exists.") from error
        except FileNotFoundError as error:
            raise MissingFileError(f"The file {path} does not exist.") from error
        except OSError as error:
            raise StorageError(f"Cannot access {path}: {error}.") from error


def split_url(url: str) -> tuple[str, str]:
    """Splits the URL or path of a file into its folder and its name."""
    scheme, separator, path = url.rpartition("://")
    if not separator:
        return str(Path(url).parent), Path(url).name
    folder, _, name = path.rpartition("/")
    return f"{scheme}://{folder}", name
