"""Storage in a local folder."""

from pathlib import Path

import pytest

from src.mlops.errors import StorageError
from src.mlops.io.storage import Storage, open_storage
from tests.helpers.storage_contract import StorageContract


class TestFolder(StorageContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Storage:
        return open_storage(str(tmp_path / "store"))


def test_a_url_with_an_unsupported_scheme() -> None:
    with pytest.raises(StorageError, match="ftp://somewhere"):
        open_storage("ftp://somewhere")


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = open_storage(str(tmp_path / "store"))
    store.write("a", b"content")
    with pytest.raises(StorageError, match=r"Cannot copy .*store/a to .*file/a"):
        store.download("a", tmp_path / "file" / "a")
