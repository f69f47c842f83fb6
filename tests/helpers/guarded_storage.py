"""A bucket in a folder on this machine, in which the `gcloud` double decides who may read and write what."""

from pathlib import Path

from src.mlops.errors import UnreachableError
from src.mlops.io.storage import Folder
from tests.helpers.gcloud_record import Double
from tests.helpers.google_iam import OWNER, DeniedError, require


class GuardedStorage(Folder):
    """A folder of a bucket, as the account that is logged in sees it.

    Args:
        double: The double with the policies.
        url: Such as `gs://my-project-gtsrb/gtsrb/models`.
    """

    def __init__(self, double: Double, url: str) -> None:
        bucket, _, folder = url.removeprefix("gs://").partition("/")
        super().__init__(double.folder / "buckets" / bucket / folder)
        self.url, self._double, self._place, self._folder = url, double, f"buckets/{bucket}", folder

    def sizes(self, folder: str = "") -> dict[str, int]:
        self._check("storage.objects.list", f"{folder}/*".lstrip("/"))
        return super().sizes(folder)

    def read(self, name: str) -> bytes:
        self._check("storage.objects.get", name)
        return super().read(name)

    def write(self, name: str, content: bytes) -> None:
        self._check("storage.objects.create", name)
        super().write(name, content)

    def create(self, name: str, content: bytes, replaces: str | None = None) -> None:
        self._check("storage.objects.create", name)
        if replaces is not None:
            self._check("storage.objects.delete", name)
        super().create(name, content, replaces)

    def state(self, name: str) -> str:
        self._check("storage.objects.get", name)
        return super().state(name)

    def download(self, name: str, target: Path) -> None:
        self._check("storage.objects.get", name)
        super().download(name, target)

    def _check(self, permission: str, name: str) -> None:
        state = self._double.state()
        try:
            require(state, state.get("account", OWNER), permission, self._place, f"{self._folder}/{name}")
        except DeniedError as error:
            raise UnreachableError(
                f"Cannot access {self.url}/{name}: Forbidden: 403 GET: {error}. Check the network, the name of the "
                "bucket and your access to it (`gcloud auth application-default login`)."
            ) from error
        finally:
            self._double.write(state)
