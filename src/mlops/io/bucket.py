"""A `gs://` bucket as a `Storage`, through google-cloud-storage."""

import logging
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from src.mlops.errors import FileExistsInStorageError, MissingFileError, StorageError, UnreachableError
from src.mlops.io.storage import BUCKET

logger = logging.getLogger(__name__)
ATTEMPTS = 5
# Seconds to wait for a connection, for the next bytes of a response, and until the last retry.
PATIENCE = {"small": (5.0, 15.0, 15.0), "large": (5.0, 60.0, 900.0)}
# google-cloud-storage would resume an interrupted download, but not check a resumed one. So it does not retry, and each
# attempt is a complete transfer.
_CHECKED = {"checksum": "crc32c", "retry": None}
T = TypeVar("T")
Timeout = tuple[float, ...]


class Bucket:
    """A folder in a bucket.

    Uploads and downloads are compared with the checksum (CRC32C) that the bucket stores. An object is visible only
    after a complete upload. Temporary failures are retried.

    Args:
        url: URL such as `gs://bucket/folder`.

    Raises:
        StorageError: The packages for buckets are missing, or the URL has no bucket name.
    """

    def __init__(self, url: str) -> None:
        path = url.removeprefix(BUCKET).strip("/")
        self.url = BUCKET + path
        self._bucket, _, self._folder = path.partition("/")
        if not self._bucket:
            raise StorageError(f"The URL {url!r} has no bucket name. Use a URL such as {BUCKET}bucket/folder.")
        try:
            import google.cloud.storage
            import tenacity  # noqa: F401
        except ImportError as error:
            raise StorageError(
                f"Cannot use {url}, because the packages for buckets are not installed ({error}). Install them with "
                "`uv sync --group buckets`."
            ) from error
        self._new_client = google.cloud.storage.Client

    def names(self, folder: str = "") -> list[str]:
        """See `Storage`."""
        return list(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """See `Storage`."""
        top = self._path("")
        below = self._path(f"{folder}/" if folder else "")

        def find(timeout: Timeout) -> dict[str, int]:
            found = self._client.list_blobs(
                self._bucket, prefix=below, fields="items(name,size),nextPageToken", timeout=timeout, retry=None
            )
            sizes = {blob.name.removeprefix(top): blob.size for blob in found if not blob.name.endswith("/")}
            return dict(sorted(sizes.items()))

        try:
            return self._try(folder, find)
        except MissingFileError as error:
            raise MissingFileError(f"The bucket {BUCKET}{self._bucket} does not exist.") from error

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        return self._get(name, lambda timeout: bytes(self._blob(name).download_as_bytes(timeout=timeout, **_CHECKED)))

    def write(self, name: str, content: bytes) -> None:
        """See `Storage`."""
        self._try(name, lambda timeout: self._blob(name).upload_from_string(content, timeout=timeout, **_CHECKED))

    def create(self, name: str, content: bytes, replaces: str | None = None) -> None:
        """See `Storage`."""
        generation = int(replaces.split()[1]) if replaces else 0  # 0: there must be no such object
        try:
            self._try(
                name,
                lambda timeout: self._blob(name).upload_from_string(
                    content, if_generation_match=generation, timeout=timeout, **_CHECKED
                ),
            )
        except FileExistsInStorageError:
            # An earlier attempt may have succeeded although its response was lost.
            if self.read(name) != content:
                raise

    def download(self, name: str, target: Path) -> None:
        """See `Storage`."""

        def fetch(timeout: Timeout) -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as folder:
                part = Path(folder, target.name)
                self._blob(name).download_to_filename(str(part), timeout=timeout, **_CHECKED)
                part.replace(target)

        self._get(name, fetch, "large")

    def upload(self, source: Path, name: str) -> None:
        """See `Storage`."""
        self._try(
            name,
            lambda timeout: self._blob(name).upload_from_filename(str(source), timeout=timeout, **_CHECKED),
            "large",
        )

    def state(self, name: str) -> str:
        """See `Storage`."""
        blob = self._blob(name)
        self._get(name, lambda timeout: blob.reload(timeout=timeout, retry=None))
        return f"{blob.size} {blob.generation} {blob.crc32c}"

    def remove(self, name: str) -> None:
        """See `Storage`."""
        try:
            self._try(name, lambda timeout: self._blob(name).delete(timeout=timeout, retry=None))
        except MissingFileError:
            return

    @cached_property
    def _client(self) -> Any:
        return self._new_client(project=None)  # only needed to create buckets

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}".lstrip("/")

    def _blob(self, name: str) -> Any:
        return self._client.bucket(self._bucket).blob(self._path(name))

    def _get(self, name: str, work: Callable[[Timeout], T], patience: str = "small") -> T:
        """Calls `work` like `_try`, and finds out what a refusal means.

        Google does not reveal that an object does not exist to an account that cannot list the bucket: it answers 403,
        and not 404. An account that is limited to a folder can list that folder.
        """
        from google.api_core.exceptions import Forbidden

        try:
            return self._try(name, work, patience)
        except UnreachableError as error:
            if not isinstance(error.__cause__, Forbidden):
                raise
            with suppress(UnreachableError):
                if self._is_absent(name):
                    raise MissingFileError(f"The file {self.url}/{name} does not exist.") from error
            raise

    def _is_absent(self, name: str) -> bool:
        path = self._path(name)

        def find(timeout: Timeout) -> bool:
            found = self._client.list_blobs(
                self._bucket, prefix=path, max_results=1, fields="items(name)", timeout=timeout, retry=None
            )
            return not any(blob.name == path for blob in found)  # names come in order, the shortest first

        return self._try(name, find)

    def _try(self, name: str, work: Callable[[Timeout], T], patience: str = "small") -> T:
        """Calls `work`, repeats it after temporary errors, and converts errors into errors of this project."""
        import tenacity
        from google.api_core.exceptions import (
            GoogleAPICallError,
            NotFound,
            PreconditionFailed,
            ServerError,
            TooManyRequests,
        )
        from google.auth.exceptions import GoogleAuthError, TransportError
        from google.cloud.storage.exceptions import DataCorruption
        from requests.exceptions import RequestException

        temporary = (ServerError, TooManyRequests, TransportError, RequestException, ConnectionError, DataCorruption)
        *timeout, deadline = PATIENCE[patience]
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(temporary),
            stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_after_delay(deadline),
            wait=tenacity.wait_random_exponential(max=10),
            before_sleep=tenacity.before_sleep_log(logger, logging.WARNING),
            reraise=True,
        )
        where = f"{self.url}/{name}".rstrip("/")
        try:
            return again(work, tuple(timeout))
        except PreconditionFailed as error:
            raise FileExistsInStorageError(
                f"The file {where} exists already, or has changed in the meantime."
            ) from error
        except NotFound as error:
            raise MissingFileError(f"The file {where} does not exist.") from error
        except DataCorruption as error:
            raise StorageError(
                f"{where} was corrupted in transit: the CRC32C checksums differ. The transfer was discarded."
            ) from error
        except (GoogleAPICallError, GoogleAuthError, RequestException, ConnectionError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnreachableError(
                f"Cannot access {where}: {type(error).__name__}: {reason[:300]}. Check the network, the name of the "
                "bucket and your access to it (`gcloud auth application-default login`)."
            ) from error
        except OSError as error:
            raise StorageError(f"Cannot transfer {where}: {error}.") from error
