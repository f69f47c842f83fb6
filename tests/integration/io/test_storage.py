"""Files in folders and buckets: the right bytes or a clear error, whatever the network does."""

from collections.abc import Callable
from pathlib import Path

import pytest

from src.mlops import storage as storage_module
from src.mlops.errors import FileExistsInStorageError, MissingFileError, StorageError, UnreachableError
from src.mlops.storage import Storage, open_storage, split_url
from tests.emulator import BUCKET, Cloud

LARGE = bytes(range(256)) * 40_000  # 10 MB: more than gcsfs sends in one request


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "bucket":
        request.getfixturevalue("cloud")
        return open_storage(f"gs://{BUCKET}/some/where")
    return open_storage(str(tmp_path / "store"))


class TestBoth:
    def test_what_is_written_is_read(self, store: Storage) -> None:
        store.write("a/b.txt", b"one")
        store.write("a/b.txt", b"two")
        assert store.read("a/b.txt") == b"two"
        assert store.names() == store.names("a") == ["a/b.txt"]
        store.remove("a/b.txt")
        store.remove("a/b.txt")
        assert store.names() == []

    def test_large_files(self, store: Storage, tmp_path: Path) -> None:
        (tmp_path / "large").write_bytes(LARGE)
        store.upload(tmp_path / "large", "x/large.zip")
        store.download("x/large.zip", tmp_path / "back" / "large")
        assert (tmp_path / "back" / "large").read_bytes() == LARGE
        assert [path.name for path in (tmp_path / "back").iterdir()] == ["large"]

    def test_only_one_creates(self, store: Storage) -> None:
        store.create("one", b"first")
        with pytest.raises(FileExistsInStorageError, match="one yet, found one"):
            store.create("one", b"second")
        assert store.read("one") == b"first"

    def test_missing_files(self, store: Storage, tmp_path: Path) -> None:
        actions: list[Callable[[], object]] = [
            lambda: store.read("none"),
            lambda: store.state("none"),
            lambda: store.download("none", tmp_path / "none"),
        ]
        for action in actions:
            with pytest.raises(MissingFileError, match="none, found none"):
                action()
        assert store.names("none") == []
        assert not (tmp_path / "none").exists()

    def test_state_changes_when_written(self, store: Storage) -> None:
        store.write("a", b"one")
        before = store.state("a")
        assert store.state("a") == before
        store.write("a", b"two")
        assert store.state("a") != before


class TestBucketThatFails:
    @pytest.fixture
    def bucket(self, cloud: Cloud) -> Storage:
        return open_storage(f"gs://{BUCKET}/x")

    @pytest.mark.parametrize("kind", ["503", "drop", "lost", "corrupt"])
    def test_a_read_that_fails_in_passing_succeeds(
        self, kind: str, bucket: Storage, cloud: Cloud, tmp_path: Path
    ) -> None:
        bucket.write("a", b"content")
        cloud.fail(kind, part="alt=media", times=2)
        assert bucket.read("a") == b"content"
        fault = cloud.fail(kind, part="alt=media", times=2)
        bucket.download("a", tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == b"content"
        assert fault.times == 0

    @pytest.mark.parametrize(("kind", "message"), [("drop", "found"), ("corrupt", "CRC32C|checksum"), ("503", "found")])
    def test_a_read_that_goes_on_failing_leaves_what_was_there(
        self, kind: str, message: str, bucket: Storage, cloud: Cloud, tmp_path: Path
    ) -> None:
        bucket.write("a", b"content")
        (tmp_path / "a").write_bytes(b"former")
        cloud.fail(kind, part="alt=media")
        with pytest.raises(StorageError, match=message):
            bucket.read("a")
        with pytest.raises(StorageError, match=message):
            bucket.download("a", tmp_path / "a")
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        assert (tmp_path / "a").read_bytes() == b"former"

    @pytest.mark.parametrize("kind", ["503", "lost"])
    def test_a_write_that_fails_in_passing_succeeds(
        self, kind: str, bucket: Storage, cloud: Cloud, tmp_path: Path
    ) -> None:
        (tmp_path / "large").write_bytes(LARGE)
        fault = cloud.fail(kind, method="POST", times=2)
        bucket.write("a", b"content")
        bucket.upload(tmp_path / "large", "large")
        assert fault.times == 0
        assert cloud.objects() == {"x/a": b"content", "x/large": LARGE}

    def test_a_create_whose_answer_is_lost_counts(self, bucket: Storage, cloud: Cloud) -> None:
        cloud.fail("lost", method="POST", times=1)
        bucket.create("a", b"content")
        assert cloud.objects() == {"x/a": b"content"}

    def test_a_write_that_goes_on_failing_leaves_nothing_half_written(
        self, bucket: Storage, cloud: Cloud, tmp_path: Path
    ) -> None:
        bucket.write("large", b"former")
        (tmp_path / "large").write_bytes(LARGE)
        fault = cloud.fail("503", method="POST", part="upload_id")  # the parts of the file
        with pytest.raises(UnreachableError, match=r"503|unavailable"):
            bucket.upload(tmp_path / "large", "large")
        assert fault.times < 1_000_000
        assert cloud.objects() == {"x/large": b"former"}

    def test_a_bucket_that_hangs_ends_in_time(
        self, bucket: Storage, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(storage_module.PATIENCE, "small", 0.0001)
        with pytest.raises(UnreachableError, match=r"Check the network"):
            bucket.read("a")


def test_an_unreachable_host(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    with pytest.raises(UnreachableError, match=f"expected to use gs://{BUCKET}/a"):
        open_storage(f"gs://{BUCKET}").read("a")


@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://", "http://example.org"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(StorageError, match="expected"):
        open_storage(url)


def test_split_url() -> None:
    assert split_url("gs://bucket/a/b.onnx") == ("gs://bucket/a", "b.onnx")
