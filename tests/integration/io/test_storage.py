"""Files in a bucket with network faults: correct content or a clear error."""

import re
import socket
from pathlib import Path

import pytest

from src.mlops.errors import MissingFileError, StorageError, UnreachableError
from src.mlops.io import bucket as bucket_module
from src.mlops.io.storage import Storage, open_storage, split_url
from tests.helpers.storage_contract import LARGE, StorageContract
from tests.helpers.storage_emulator import BUCKET, Cloud


class TestBucket(StorageContract):
    @pytest.fixture
    def store(self, cloud: Cloud) -> Storage:
        return open_storage(f"gs://{BUCKET}/some/where")


class TestBucketThatFails:
    @pytest.fixture
    def bucket(self, cloud: Cloud) -> Storage:
        return open_storage(f"gs://{BUCKET}/x")

    @pytest.mark.parametrize("kind", ["503", "drop", "lost", "corrupt"])
    def test_reads_are_retried_after_temporary_failures(
        self, kind: str, bucket: Storage, cloud: Cloud, tmp_path: Path
    ) -> None:
        bucket.write("a", b"content")
        cloud.fail(kind, part="alt=media", times=2)
        assert bucket.read("a") == b"content"
        fault = cloud.fail(kind, part="alt=media", times=2)
        bucket.download("a", tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == b"content"
        assert fault.times == 0

    def test_an_account_that_is_limited_to_a_folder(self, bucket: Storage, cloud: Cloud, tmp_path: Path) -> None:
        """Google answers 403, and not 404, for a missing object if the account cannot list the whole bucket."""
        bucket.write("ab", b"content")
        cloud.fail("403", part="/o/")
        for name, expected in (("a", MissingFileError), ("ab", UnreachableError)):
            with pytest.raises(expected):
                bucket.read(name)
            with pytest.raises(expected):
                bucket.state(name)
            with pytest.raises(expected):
                bucket.download(name, tmp_path / "x")
        cloud.fail("403")
        with pytest.raises(UnreachableError, match="x/a: Forbidden"):
            bucket.read("a")

    @pytest.mark.parametrize(
        ("kind", "message"),
        [("drop", "x/a: "), ("corrupt", "x/a .*(CRC32C|checksum)"), ("503", "x/a: .*(503|unavailable)")],
    )
    def test_failed_downloads_do_not_change_an_existing_file(
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
    def test_writes_are_retried_after_temporary_failures(
        self, kind: str, bucket: Storage, cloud: Cloud, tmp_path: Path
    ) -> None:
        (tmp_path / "large").write_bytes(LARGE)
        fault = cloud.fail(kind, method="POST", times=2)
        bucket.write("a", b"content")
        bucket.upload(tmp_path / "large", "large")
        assert fault.times == 0
        assert cloud.objects() == {"x/a": b"content", "x/large": LARGE}

    def test_a_create_with_a_lost_response_succeeds(self, bucket: Storage, cloud: Cloud) -> None:
        cloud.fail("lost", method="POST", times=1)
        bucket.create("a", b"content")
        assert cloud.objects() == {"x/a": b"content"}
        cloud.fail("lost", method="POST", times=1)
        bucket.create("a", b"other", replaces=bucket.state("a"))
        assert cloud.objects() == {"x/a": b"other"}

    def test_an_interrupted_download_is_checked(self, bucket: Storage, cloud: Cloud, tmp_path: Path) -> None:
        bucket.write("a", b"content")
        cloud.fail("drop", part="alt=media", times=1)
        cloud.fail("corrupt", part="alt=media", times=1)
        bucket.download("a", tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == b"content"

    def test_a_local_file_that_cannot_be_written(self, bucket: Storage, tmp_path: Path) -> None:
        bucket.write("a", b"content")
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match=r"x/a"):
            bucket.download("a", tmp_path / "file" / "a")
        with pytest.raises(StorageError, match=r"x/b.*no-such-file"):
            bucket.upload(tmp_path / "no-such-file", "b")

    def test_failed_uploads_do_not_change_an_existing_object(
        self, bucket: Storage, cloud: Cloud, tmp_path: Path
    ) -> None:
        bucket.write("large", b"former")
        (tmp_path / "large").write_bytes(LARGE)
        fault = cloud.fail("503", method="PUT", part="upload_id")  # uploads of the parts of a file
        with pytest.raises(UnreachableError, match=r"503|unavailable"):
            bucket.upload(tmp_path / "large", "large")
        assert fault.times < 1_000_000
        assert cloud.objects() == {"x/large": b"former"}

    def test_requests_to_a_bucket_have_a_timeout(
        self, bucket: Storage, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(bucket_module.PATIENCE, "small", (0.05, 0.05, 15))
        with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, but never answers
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{silent.getsockname()[1]}")
            with pytest.raises(UnreachableError, match=r"x/a.*Check the network"):
                bucket.read("a")


def test_an_unreachable_host(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    with pytest.raises(UnreachableError, match=f"gs://{BUCKET}/a.*gcloud auth application-default login"):
        open_storage(f"gs://{BUCKET}").read("a")


def test_a_bucket_that_does_not_exist(cloud: Cloud) -> None:
    with pytest.raises(MissingFileError, match="gs://no-such-bucket does not exist"):
        open_storage("gs://no-such-bucket/x").names()


@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://", "http://example.org"])
def test_unsupported_urls_are_rejected(url: str) -> None:
    with pytest.raises(StorageError, match=re.escape(repr(url))):
        open_storage(url)


def test_split_url() -> None:
    assert split_url("gs://bucket/a/b.onnx") == ("gs://bucket/a", "b.onnx")
    assert split_url("raw.zip") == (".", "raw.zip")
    assert split_url("../my/raw.zip") == (str(Path("../my")), "raw.zip")
    assert split_url("~/raw.zip") == ("~", "raw.zip")
    assert split_url(str(Path("/my/raw.zip").absolute())) == (str(Path("/my").absolute()), "raw.zip")
