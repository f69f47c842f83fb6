"""Tests for all kinds of storage. A test class inherits them and defines a fixture `store`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from src.mlops.errors import FileExistsInStorageError, MissingFileError
from src.mlops.io.storage import Storage

LARGE = bytes(range(256)) * 40_000  # 10 MB: more than google-cloud-storage sends in one request


class StorageContract:
    def test_written_files_can_be_read(self, store: Storage) -> None:
        store.write("a/b.txt", b"one")
        store.write("a/b.txt", b"two")
        assert store.read("a/b.txt") == b"two"
        assert store.names() == store.names("a") == ["a/b.txt"]
        assert store.sizes("a") == {"a/b.txt": 3}
        store.remove("a/b.txt")
        store.remove("a/b.txt")
        assert store.names() == []

    def test_large_files(self, store: Storage, tmp_path: Path) -> None:
        (tmp_path / "large").write_bytes(LARGE)
        store.upload(tmp_path / "large", "x/large.zip")
        store.download("x/large.zip", tmp_path / "back" / "large")
        assert (tmp_path / "back" / "large").read_bytes() == LARGE
        assert [path.name for path in (tmp_path / "back").iterdir()] == ["large"]

    def test_a_file_is_created_only_once(self, store: Storage) -> None:
        store.create("one", b"first")
        with pytest.raises(FileExistsInStorageError, match=r"/one\b"):
            store.create("one", b"second")
        assert store.read("one") == b"first"

    def test_a_file_is_replaced_only_in_its_known_state(self, store: Storage) -> None:
        store.create("a/one", b"first")
        known = store.state("a/one")
        store.create("a/one", b"second", replaces=known)
        with pytest.raises(FileExistsInStorageError, match=r"a/one\b"):
            store.create("a/one", b"third", replaces=known)
        assert store.read("a/one") == b"second"
        assert store.names() == ["a/one"]
        store.remove("a/one")
        with pytest.raises(MissingFileError, match=r"a/one\b"):
            store.create("a/one", b"third", replaces=known)
        assert store.names() == []

    def test_missing_files(self, store: Storage, tmp_path: Path) -> None:
        actions: list[Callable[[], object]] = [
            lambda: store.read("none"),
            lambda: store.state("none"),
            lambda: store.download("none", tmp_path / "none"),
        ]
        for action in actions:
            with pytest.raises(MissingFileError, match=r"/none\b"):
                action()
        assert store.names("none") == []
        assert not (tmp_path / "none").exists()

    def test_state_changes_when_written(self, store: Storage) -> None:
        store.write("a", b"one")
        before = store.state("a")
        assert store.state("a") == before
        store.write("a", b"two")
        assert store.state("a") != before
