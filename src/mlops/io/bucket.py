"""A `gs://` bucket as a `Storage`, through gcsfs."""

# ruff: noqa: SLF001, TID251 - the coroutines of gcsfs are private; issue 17 replaces them by a public API

import base64
import logging
import os
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from src.mlops.errors import FileExistsInStorageError, MissingFileError, StorageError, UnreachableError
from src.mlops.io.storage import BUCKET

logger = logging.getLogger(__name__)
ATTEMPTS = 3
# Maximum duration of one attempt in seconds, including the retries of single requests by gcsfs.
PATIENCE = {"small": 15.0, "large": 900.0}
_BLOCK = 2**20
T = TypeVar("T")


class Bucket:
    """A folder in a bucket.

    Downloads are compared with the checksum that the bucket stores, and uploads with the checksum in the response. An
    object is visible only after a complete upload. Temporary failures are retried.

    Args:
        url: URL such as `gs://bucket/folder`.

    Raises:
        StorageError: The packages for buckets are missing, or the URL has no bucket name.
    """

    def __init__(self, url: str) -> None:
        self._root = url.removeprefix(BUCKET).strip("/")
        self.url = BUCKET + self._root
        if not self._root:
            raise StorageError(f"The URL {url!r} has no bucket name. Use a URL such as {BUCKET}bucket/folder.")
        try:
            import fsspec.asyn
            import gcsfs
            import google_crc32c
            import tenacity
        except ImportError as error:
            raise StorageError(
                f"Cannot use {url}, because the packages for buckets are not installed ({error}). Install them with "
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
            # An earlier attempt may have succeeded although its response was lost.
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
        # Other processes change listings and objects, so nothing is cached.
        token = "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else None
        return self._gcsfs.GCSFileSystem(token=token, use_listings_cache=False, skip_instance_cache=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _info(self, name: str) -> dict[str, Any]:
        facts: dict[str, Any] = self._once(name, lambda files: files._info(self._path(name)))
        if facts["type"] != "file":
            raise MissingFileError(f"{self.url}/{name} is a folder, not a file.")
        return facts

    def _call(self, name: str, work: Callable[[Any], Any], patience: str = "small") -> Any:
        return self._again(lambda: self._once(name, work, patience), patience)

    def _again(self, attempt: Callable[[], T], patience: str = "small") -> T:
        """Calls `attempt` and retries it after errors that may be temporary.

        gcsfs already retries single requests, but an interrupted transfer must be restarted here.
        """
        temporary = (_CorruptedError, UnreachableError) if patience == "large" else _CorruptedError
        again = self._tenacity.retry(
            retry=self._tenacity.retry_if_exception_type(temporary),
            stop=self._tenacity.stop_after_attempt(ATTEMPTS),
            wait=self._tenacity.wait_random_exponential(max=2),
            before_sleep=self._tenacity.before_sleep_log(logger, logging.WARNING),
            reraise=True,
        )
        result: T = again(attempt)()
        return result

    def _once(self, name: str, work: Callable[[Any], Any], patience: str = "small") -> Any:
        """Runs one coroutine of gcsfs with a timeout, and converts its errors into errors of this project."""
        where = f"{self.url}/{name}".rstrip("/")
        try:
            files = self._files
            return self._asyn.sync(files.loop, lambda: work(files), timeout=PATIENCE[patience])
        except FileExistsError as error:
            raise FileExistsInStorageError(f"The file {where} already exists.") from error
        except FileNotFoundError as error:
            raise MissingFileError(f"The file {where} does not exist.") from error
        except self._gcsfs.retry.ChecksumError as error:
            raise _CorruptedError(f"{where} was corrupted in transit: the checksums do not match.") from error
        except StorageError:
            raise
        except Exception as error:  # errors of the network, the credentials and the API have no common base class
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnreachableError(
                f"Cannot access {where}: {type(error).__name__}: {reason[:300]}. Check the network, the name of the "
                "bucket and your access to it (`gcloud auth application-default login`)."
            ) from error

    def _require(self, name: str, facts: dict[str, Any], size: int, checksum: int) -> None:
        """Raises an error if size or CRC32C of a download differ from those of the object in the bucket."""
        expected = int.from_bytes(base64.b64decode(facts["crc32c"]), "big")
        if (size, checksum) != (int(facts["size"]), expected):
            raise _CorruptedError(
                f"The download of {self.url}/{name} is corrupted: it has {size:,} bytes and CRC32C {checksum:08x} "
                f"instead of {int(facts['size']):,} bytes and {expected:08x}. It was discarded after {ATTEMPTS} "
                "attempts."
            )

    def _checksum(self, path: Path) -> int:
        checksum = 0
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                checksum = self._crc32c.extend(checksum, block)
        return checksum


class _CorruptedError(StorageError):
    """A transfer corrupted the content."""
