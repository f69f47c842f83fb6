"""Tests raw data as archives under DVC, in a folder and in a bucket, and archives read directly from the bucket."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from src.mlops import ROOT
from src.mlops.config import DataConfig
from src.mlops.data.archives import fetch_archives, pack_archives, unpack_archives
from src.mlops.data.dvc import ARCHIVES, bucket_folder, pack, pull, push, require_complete
from src.mlops.data.layouts import read_layout
from src.mlops.data.prepare import prepare
from src.mlops.errors import ConfigError, DataError, StorageError, UnreachableError
from tests.helpers.storage_emulator import BUCKET, Cloud
from tests.helpers.tiny import quick_config, write_kaggle

NAMES = ["Test.zip", "Train.zip", "tables.zip"]


def run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def clone(folder: Path) -> Path:
    (folder / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    run(folder, "git", "init", "--quiet")
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Returns a Git repository that contains only this repository's DVC configuration."""
    return clone(tmp_path / "clone")


@pytest.fixture(scope="module")
def packed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    clone(folder / "clone")
    pack(write_kaggle(folder / "raw"), folder / "clone")
    return folder


@pytest.fixture
def packed(packed_once: Path, repository: Path) -> Path:
    """Returns the same repository with tiny data under DVC."""
    shutil.copytree(packed_once / "clone", repository, dirs_exist_ok=True)
    return repository


@pytest.fixture
def in_cloud(packed: Path, cloud: Cloud) -> Path:
    """Returns the same repository with the emulator as Google Cloud Storage."""
    (packed / ".dvc" / "config.local").write_text(
        f"['remote \"storage\"']\n    endpointurl = {cloud.url}\n    allow_anonymous_login = true\n"
    )
    return packed


def archives_of(repository: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((repository / ARCHIVES).glob("*.zip"))}


def wipe(repository: Path) -> None:
    for path in (repository / ARCHIVES).glob("*.zip"):
        path.unlink()
    shutil.rmtree(repository / ".dvc" / "cache")


class TestArchives:
    def test_the_same_files_give_the_same_bytes(self, raw_dir: Path, tmp_path: Path) -> None:
        first = [path.read_bytes() for path in pack_archives(raw_dir, tmp_path / "a")]
        shutil.copytree(raw_dir, tmp_path / "copied")
        again = pack_archives(tmp_path / "copied", tmp_path / "b")
        assert [path.read_bytes() for path in again] == first
        assert sorted(path.name for path in again) == NAMES

    def test_archives_are_unpacked_once(self, raw_dir: Path, tmp_path: Path) -> None:
        pack_archives(raw_dir, tmp_path / "archives")
        folder = unpack_archives(tmp_path / "archives")
        assert len(read_layout(folder).train) == len(read_layout(raw_dir).train) > 0
        (folder / "mine").touch()
        assert (unpack_archives(tmp_path / "archives") / "mine").exists()
        pack_archives(raw_dir, tmp_path / "archives")  # new modification times, so the archives are unpacked again
        assert not (unpack_archives(tmp_path / "archives") / "mine").exists()

    def test_many_folders_make_one_archive(self, tmp_path: Path) -> None:
        for number in range(43):
            (tmp_path / "raw" / str(number)).mkdir(parents=True)
            (tmp_path / "raw" / str(number) / "a.png").write_bytes(b"x")
        assert [path.name for path in pack_archives(tmp_path / "raw", tmp_path / "out")] == ["images.zip"]

    def test_a_corrupted_archive_is_named_and_nothing_is_replaced(self, raw_dir: Path, tmp_path: Path) -> None:
        pack_archives(raw_dir, tmp_path / "archives")
        folder = unpack_archives(tmp_path / "archives")
        train = tmp_path / "archives" / "Train.zip"
        train.write_bytes(train.read_bytes()[:-100])
        with pytest.raises(DataError, match=r"archives/Train\.zip: File is not a zip file"):
            unpack_archives(tmp_path / "archives")
        assert len(read_layout(folder).train) > 0

    def test_nothing_to_pack_or_unpack(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for folder in ("empty", "none"):
            with pytest.raises(DataError, match=rf"{re.escape(str(tmp_path / folder))}: the folder"):
                pack_archives(tmp_path / folder, tmp_path / "out")
            with pytest.raises(DataError, match=r"inv data\.pull"):
                unpack_archives(tmp_path / folder)
        assert not (tmp_path / "out").exists()


class TestDvc:
    def test_folder_remote_needs_no_account(self, packed: Path) -> None:
        push("local", BUCKET, packed)
        before = archives_of(packed)
        wipe(packed)
        assert pull("local", BUCKET, packed) == [f"{ARCHIVES}/{name}.dvc" for name in NAMES]
        assert archives_of(packed) == before
        assert list(before) == NAMES

    def test_bucket_holds_the_files_under_their_names(self, in_cloud: Path, cloud: Cloud) -> None:
        push("storage", BUCKET, in_cloud)
        before = archives_of(in_cloud)
        assert cloud.objects() == {f"gtsrb/dvc/{ARCHIVES}/{name}": content for name, content in before.items()}
        wipe(in_cloud)
        pull("storage", BUCKET, in_cloud)
        assert archives_of(in_cloud) == before

    @pytest.mark.slow
    def test_an_older_version_can_be_restored(self, in_cloud: Path, raw_dir: Path) -> None:
        push("storage", BUCKET, in_cloud)
        before = archives_of(in_cloud)
        pointers = {path: path.read_text() for path in (in_cloud / ARCHIVES).glob("*.dvc")}
        (raw_dir / "Train.csv").write_text((raw_dir / "Train.csv").read_text() + "\n")
        pack(raw_dir, in_cloud)
        push("storage", BUCKET, in_cloud)
        assert archives_of(in_cloud) != before
        for path, text in pointers.items():
            path.write_text(text)
        wipe(in_cloud)
        pull("storage", BUCKET, in_cloud)
        assert archives_of(in_cloud) == before

    def test_a_corrupted_archive_is_removed(self, packed: Path) -> None:
        path = packed / ARCHIVES / "Train.zip"
        path.chmod(0o644)
        path.write_bytes(b"corrupted")
        with pytest.raises(DataError, match=r"Train\.zip .*MD5 .*removed"):
            require_complete(packed)
        assert sorted(archives_of(packed)) == ["Test.zip", "tables.zip"]

    @pytest.mark.slow
    def test_a_corrupted_download_is_removed(self, in_cloud: Path, cloud: Cloud) -> None:
        push("storage", BUCKET, in_cloud)
        before = archives_of(in_cloud)
        wipe(in_cloud)
        cloud.fail("corrupt", part="alt=media")
        with pytest.raises(DataError, match=r"Train\.zip .*MD5 .*removed"):
            pull("storage", BUCKET, in_cloud)
        assert archives_of(in_cloud) == {}
        cloud.heal()
        pull("storage", BUCKET, in_cloud)
        assert archives_of(in_cloud) == before

    def test_nothing_under_dvc(self, repository: Path) -> None:
        with pytest.raises(DataError, match=rf"DVC.*{ARCHIVES}.*inv data\.pack"):
            push("local", BUCKET, repository)

    def test_remotes_that_do_not_exist_or_are_empty(self, packed: Path) -> None:
        repository = packed
        before = archives_of(repository)
        with pytest.raises(StorageError, match=r"remote 'nowhere' doesn't exist"):
            push("nowhere", BUCKET, repository)
        wipe(repository)
        with pytest.raises(StorageError, match=r"`dvc pull` .*exit code"):
            pull("local", BUCKET, repository)  # nothing was pushed
        assert archives_of(repository) == {}
        assert before

    def test_a_push_to_a_folder_changes_no_tracked_file(self, packed: Path) -> None:
        before = (packed / ".dvc" / "config").read_bytes()
        push("local", "another-bucket", packed)
        assert (packed / ".dvc" / "config").read_bytes() == before
        assert not (packed / ".dvc" / "config.local").exists()

    @pytest.mark.slow
    def test_another_bucket_changes_no_tracked_file(self, in_cloud: Path, cloud: Cloud) -> None:
        before = (in_cloud / ".dvc" / "config").read_bytes()
        with pytest.raises(StorageError, match="`dvc push` failed"):
            push("storage", "another-bucket", in_cloud)  # a bucket that does not exist
        assert bucket_folder(in_cloud) == "gs://another-bucket/gtsrb/dvc"
        assert any("/b/another-bucket/" in request for request in cloud.requests)
        push("storage", BUCKET, in_cloud)
        assert cloud.objects("gtsrb/dvc")
        assert (in_cloud / ".dvc" / "config").read_bytes() == before

    def test_a_configuration_without_the_bucket(self, packed: Path) -> None:
        (packed / ".dvc" / "config").write_text("[core]\n")
        with pytest.raises(ConfigError, match=r"remote storage .*\.dvc/config"):
            push("storage", BUCKET, packed)


def test_configurations_agree_on_the_bucket() -> None:
    config = quick_config(["data=gcs"])
    assert bucket_folder().startswith(f"gs://{config.cloud.bucket}/")
    assert config.data.raw_url == f"{bucket_folder()}/{ARCHIVES}"
    assert quick_config(["data=archives"]).data.raw_dir == ROOT / ARCHIVES


class TestDirectlyFromTheBucket:
    @pytest.fixture
    def config(self, tmp_path: Path, raw_dir: Path, cloud: Cloud) -> DataConfig:
        for path in pack_archives(raw_dir, tmp_path / "archives"):
            cloud.put(f"gtsrb/dvc/{ARCHIVES}/{path.name}", path.read_bytes())
        own = [f"data.raw_dir={tmp_path}/here", f"data.processed_dir={tmp_path}/processed", "data.image_size=24"]
        return quick_config(["data=gcs", *own]).data

    def test_prepares_and_copies_the_result_back(self, config: DataConfig, cloud: Cloud) -> None:
        pack = prepare(config)
        assert pack.manifest["files"]["images.npy"]
        below = f"gtsrb/data/processed/{pack.fingerprint[:16]}"
        assert cloud.objects("gtsrb/data/processed") == {
            f"{below}/{name}": (pack.directory / name).read_bytes() for name in [*pack.manifest["files"], "pack.json"]
        }
        cloud.requests.clear()
        assert prepare(config).fingerprint == pack.fingerprint
        assert [request for request in cloud.requests if "alt=media" in request or request.startswith("POST")] == []

    def test_a_changed_archive_is_fetched_again(
        self, config: DataConfig, cloud: Cloud, raw_dir: Path, tmp_path: Path
    ) -> None:
        before = prepare(config).fingerprint
        write_kaggle(raw_dir, test_images=4)
        for path in pack_archives(raw_dir, tmp_path / "archives"):
            cloud.put(f"gtsrb/dvc/{ARCHIVES}/{path.name}", path.read_bytes())
        assert prepare(config).fingerprint != before

    def test_continues_without_the_bucket(self, config: DataConfig, cloud: Cloud) -> None:
        before = prepare(config).fingerprint
        cloud.fail("503")
        assert prepare(config).fingerprint == before

    @pytest.mark.parametrize("kind", ["503", "drop", "corrupt"])
    def test_a_transfer_that_fails_leaves_no_partial_data(
        self, kind: str, config: DataConfig, cloud: Cloud, tmp_path: Path
    ) -> None:
        cloud.fail(kind, part="Train.zip?alt=media")
        with pytest.raises(StorageError, match=r"Train\.zip"):
            prepare(config)
        assert not (tmp_path / "here" / "Train.zip").exists()
        assert not (tmp_path / "processed").exists()
        cloud.heal()
        prepare(config)

    def test_a_failed_upload_is_repeated_by_the_next_run(self, config: DataConfig, cloud: Cloud) -> None:
        cloud.fail("503", method="POST", part="upload")
        with pytest.raises(UnreachableError):
            prepare(config)
        assert cloud.objects("gtsrb/data/processed") == {}
        cloud.heal()
        pack = prepare(config)
        assert f"gtsrb/data/processed/{pack.fingerprint[:16]}/pack.json" in cloud.objects()

    def test_an_empty_bucket(self, cloud: Cloud, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=rf"gs://{BUCKET}/empty\. .*inv data\.push"):
            fetch_archives(f"gs://{BUCKET}/empty", tmp_path / "here")
        with pytest.raises(DataError, match=r"\(\.zip\) at gs://no-such-bucket/x: "):
            fetch_archives("gs://no-such-bucket/x", tmp_path / "here")
