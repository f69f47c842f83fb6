"""Files in a folder or in a bucket, through the same few operations: whole files, checked, or a clear error.

A folder needs nothing. `gs://` needs `uv sync --group buckets`, whose packages are imported when a bucket is asked for.
Against an emulator, `STORAGE_EMULATOR_HOST` names it, as for Google's own clients.
"""

import base64
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

from src.mlops import ROOT
from src.mlops.errors import FileExistsInStorageError, MissingFileError, StorageError, UnreachableError
from src.mlops.files import write_atomically

logger = logging.getLogger(__name__)
BUCKET = "gs://"
ATTEMPTS = 3
# Seconds that one attempt may take in all, gcsfs's own retries of single requests included: small files, archives.
PATIENCE = {"small": 15.0, "large": 900.0}
_BLOCK = 2**20
T = TypeVar("T")


class Storage(Protocol):
    """A folder of files. Names are relative to it, with `/` between folders."""

    url: str

    def names(self, folder: str = "") -> list[str]:
        """Returns the files below a folder, sorted; none where there is no such folder."""

    def read(self, name: str) -> bytes:
        """Returns the content of a file.

        Raises:
            MissingFileError: There is none.
            UnreachableError: The bucket cannot be reached.
        """

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, all or nothing; one that exists is replaced."""

    def create(self, name: str, content: bytes) -> None:
        """Writes a file that must not exist; of two writers at once one succeeds.

        Raises:
            FileExistsInStorageError: It exists.
        """

    def download(self, name: str, target: Path) -> None:
        """Fetches a file; the target is the whole of it, or as it was before."""

    def upload(self, source: Path, name: str) -> None:
        """Writes a large file."""

    def state(self, name: str) -> str:
        """Returns what changes whenever the file is written anew.

        Raises:
            MissingFileError: There is none.
        """

    def remove(self, name: str) -> None:
        """Deletes a file, if there is one."""


def open_storage(url: str) -> Storage:
    """Opens a folder, relative ones below the repository, or a `gs://` URL.

    Raises:
        StorageError: The URL is of another kind, or the packages for buckets are missing.
    """
    if url.startswith(BUCKET):
        return Bucket(url)
    if "://" in url:
        raise StorageError(f"expected a folder or a {BUCKET} URL, found {url!r}.")
    return Folder(ROOT / Path(url).expanduser())


class Folder:
    """A folder of this machine.

    Args:
        path: It is made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)

    def names(self, folder: str = "") -> list[str]:
        """See `Storage`."""
        files = (path for path in (self.path / folder).rglob("*") if path.is_file())
        return sorted(path.relative_to(self.path).as_posix() for path in files if not path.name.startswith("."))

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        return self._try(name, lambda: (self.path / name).read_bytes())

    def write(self, name: str, content: bytes) -> None:
        """See `Storage`."""
        self._try(name, lambda: write_atomically(self.path / name, content))

    def create(self, name: str, content: bytes) -> None:
        """See `Storage`."""
        self._try(name, lambda: self._create(self.path / name, content))

    def download(self, name: str, target: Path) -> None:
        """See `Storage`."""
        write_atomically(target, self.read(name))

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
            os.link(file.name, path)  # unlike a rename it refuses a name that is taken

    def _try(self, name: str, work: Callable[[], T]) -> T:
        path = self.path / name
        try:
            return work()
        except FileExistsError as error:
            raise FileExistsInStorageError(f"expected no file at {path} yet, found one.") from error
        except FileNotFoundError as error:
            raise MissingFileError(f"expected a file at {path}, found none.") from error
        except OSError as error:
            raise StorageError(f"expected to use {path}, found: {error}.") from error


class Bucket:
    """A folder of a bucket.

    What arrives is compared with the bucket's own checksum, what is sent with that of the answer; an object appears
    when all of it has been sent. What fails in passing is tried again.

    Args:
        url: Such as `gs://bucket/folder`.

    Raises:
        StorageError: The packages for buckets are missing, or the URL names no bucket.
    """

    def __init__(self, url: str) -> None:
        self._root = url.removeprefix(BUCKET).strip("/")
        self.url = BUCKET + self._root
        if not self._root:
            raise StorageError(f"expected {BUCKET} and the name of a bucket, found {url!r}.")
        try:
            import fsspec.asyn
            import gcsfs
            import google_crc32c
            import tenacity
        except ImportError as error:
            raise StorageError(
                f"expected the packages for buckets, to use {url}, found none ({error}). Install them: "
                "`uv sync --group buckets`."
            ) from error
        self._gcsfs, self._crc32c, self._tenacity, self._asyn = gcsfs, google_crc32c, tenacity, fsspec.asyn

    def names(self, folder: str = "") -> list[str]:
        """See `Storage`."""
        below = f"{self._root}/{folder}".rstrip("/") + "/"
        found = self._call(folder, lambda files: files._find(below))
        return sorted(name.removeprefix(f"{self._root}/") for name in found if not name.endswith("/"))

    def read(self, name: str) -> bytes:
        """See `Storage`."""

        def fetch() -> bytes:
            facts = self._info(name)
            content: bytes = self._once(name, lambda files: files._cat_file(self._path(name)))
            self._require(name, facts, len(content), self._crc32c.value(content))
            return content

        return self._again(fetch)

    def write(self, name: str, content: bytes) -> None:
        """See `Storage`."""
        self._call(name, lambda files: files._pipe_file(self._path(name), content, consistency="md5"))

    def create(self, name: str, content: bytes) -> None:
        """See `Storage`."""
        try:
            self._call(
                name, lambda files: files._pipe_file(self._path(name), content, consistency="md5", mode="create")
            )
        except FileExistsInStorageError:
            # A first attempt may have succeeded although its answer was lost.
            if self.read(name) != content:
                raise

    def download(self, name: str, target: Path) -> None:
        """See `Storage`."""

        def fetch() -> None:
            facts = self._info(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as folder:
                part = Path(folder, target.name)
                self._once(name, lambda files: files._get_file(self._path(name), str(part)), "large")
                self._require(name, facts, part.stat().st_size, self._checksum(part))
                part.replace(target)

        self._again(fetch, "large")

    def upload(self, source: Path, name: str) -> None:
        """See `Storage`."""
        send: Any = lambda files: files._put_file(str(source), self._path(name), consistency="md5")  # noqa: E731
        self._call(name, send, "large")

    def state(self, name: str) -> str:
        """See `Storage`."""
        facts = self._again(lambda: self._info(name))
        return f"{facts['size']} {facts['generation']} {facts['crc32c']}"

    def remove(self, name: str) -> None:
        """See `Storage`."""
        try:
            self._call(name, lambda files: files._rm_file(self._path(name)))
        except MissingFileError:
            return

    @cached_property
    def _files(self) -> Any:
        # Listings and objects change behind the back of any cache.
        token = "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else None
        return self._gcsfs.GCSFileSystem(token=token, use_listings_cache=False, skip_instance_cache=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _info(self, name: str) -> dict[str, Any]:
        facts: dict[str, Any] = self._once(name, lambda files: files._info(self._path(name)))
        if facts["type"] != "file":
            raise MissingFileError(f"expected a file at {self.url}/{name}, found a folder.")
        return facts

    def _call(self, name: str, work: Callable[[Any], Any], patience: str = "small") -> Any:
        return self._again(lambda: self._once(name, work, patience), patience)

    def _again(self, attempt: Callable[[], T], patience: str = "small") -> T:
        """Makes several attempts at what may succeed the next time.

        Single requests that fail are repeated by gcsfs already; a transfer that is broken off needs to start anew.
        """
        passing = (_DamagedError, UnreachableError) if patience == "large" else _DamagedError
        again = self._tenacity.retry(
            retry=self._tenacity.retry_if_exception_type(passing),
            stop=self._tenacity.stop_after_attempt(ATTEMPTS),
            wait=self._tenacity.wait_random_exponential(max=2),
            before_sleep=self._tenacity.before_sleep_log(logger, logging.WARNING),
            reraise=True,
        )
        result: T = again(attempt)()
        return result

    def _once(self, name: str, work: Callable[[Any], Any], patience: str = "small") -> Any:
        """Runs one coroutine of gcsfs, within a time, and says what is wrong in this project's errors."""
        where = f"{self.url}/{name}".rstrip("/")
        try:
            files = self._files
            return self._asyn.sync(files.loop, lambda: work(files), timeout=PATIENCE[patience])
        except FileExistsError as error:
            raise FileExistsInStorageError(f"expected no file at {where} yet, found one.") from error
        except FileNotFoundError as error:
            raise MissingFileError(f"expected a file at {where}, found none.") from error
        except self._gcsfs.retry.ChecksumError as error:
            raise _DamagedError(f"expected {where} to arrive as it was sent, found another checksum.") from error
        except StorageError:
            raise
        except Exception as error:  # network, credentials and Google's answers each have errors of their own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnreachableError(
                f"expected to use {where}, found: {type(error).__name__}: {reason[:300]}. Check the network, the "
                "bucket's name and your access to it (`gcloud auth application-default login`)."
            ) from error

    def _require(self, name: str, facts: dict[str, Any], size: int, checksum: int) -> None:
        """Compares what arrived with what the bucket says of the object."""
        expected = int.from_bytes(base64.b64decode(facts["crc32c"]), "big")
        if (size, checksum) != (int(facts["size"]), expected):
            raise _DamagedError(
                f"expected {self.url}/{name} with {int(facts['size']):,} bytes and CRC32C {expected:08x}, found "
                f"{size:,} bytes and {checksum:08x} in {ATTEMPTS} attempts. Nothing was kept of them."
            )

    def _checksum(self, path: Path) -> int:
        checksum = 0
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                checksum = self._crc32c.extend(checksum, block)
        return checksum


class _DamagedError(StorageError):
    """Bytes came or went otherwise than they should."""


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def split_url(url: str) -> tuple[str, str]:
    """Divides the URL of a file into its folder and its name."""
    scheme, _, path = url.rpartition("://")
    parent, name = PurePosixPath(path).parent, PurePosixPath(path).name
    return f"{scheme}://{parent}", name
