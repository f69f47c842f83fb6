"""The download of the official archives, against a server on this machine."""

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from src.mlops.config import load_config
from src.mlops.data.layouts import read_layout
from src.mlops.data.sources import Archive, download_official, locate_raw
from src.mlops.errors import ConfigError, DataError
from tests.conftest import picture

HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"


def ppm(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(5, seed).save(buffer, "PPM")
    return buffer.getvalue()


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


FILES = {
    "train.zip": archive(
        {
            "GTSRB/Final_Training/Images/00005/00000_00000.ppm": ppm(0),
            "GTSRB/Final_Training/Images/00005/GT-00005.csv": f"{HEADER}00000_00000.ppm;30;30;3;3;27;27;5\n".encode(),
        }
    ),
    "test.zip": archive({"GTSRB/Final_Test/Images/00000.ppm": ppm(1)}),
    "gt.zip": archive({"GT-final_test.csv": f"{HEADER}00000.ppm;30;30;3;3;27;27;5\n".encode()}),
}
ARCHIVES = tuple(Archive(name, hashlib.md5(content).hexdigest()) for name, content in FILES.items())


class Server(ThreadingHTTPServer):
    """Serves FILES with ranges; `cut` makes it break off a file once after that many bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(FILES)
        self.cut: dict[str, int] = {}
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.strip("/")
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = self.server.cut.pop(name, len(content))
        self.wfile.write(content[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.mlops.data.sources._fetch.retry.sleep", lambda _: None)


def test_downloads_checks_and_unpacks(server: Server, tmp_path: Path) -> None:
    raw = read_layout(download_official(tmp_path, server.url, ARCHIVES))
    assert list(raw.train["path"]) == ["GTSRB/Final_Training/Images/00005/00000_00000.ppm"]
    assert list(raw.test["path"]) == ["GTSRB/Final_Test/Images/00000.ppm"]
    assert (tmp_path / raw.test["path"][0]).read_bytes() == ppm(1)


def test_second_call_downloads_nothing(server: Server, tmp_path: Path) -> None:
    download_official(tmp_path, server.url, ARCHIVES)
    server.ranges.clear()
    download_official(tmp_path, server.url, ARCHIVES)
    assert server.ranges == []


def test_broken_off_download_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cut["train.zip"] = 100
    download_official(tmp_path, server.url, ARCHIVES)
    assert server.ranges[:2] == [None, "bytes=100-"]
    assert (tmp_path / "train.zip").read_bytes() == FILES["train.zip"]


def test_part_of_an_earlier_run_is_resumed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "train.zip.part").write_bytes(FILES["train.zip"][:50])
    download_official(tmp_path, server.url, ARCHIVES)
    assert server.ranges[0] == "bytes=50-"


def test_wrong_bytes_are_refused_and_deleted(server: Server, tmp_path: Path) -> None:
    server.files["train.zip"] = b"x" * 500
    with pytest.raises(DataError, match="MD5"):
        download_official(tmp_path, server.url, ARCHIVES)
    assert [path.name for path in tmp_path.iterdir()] in ([], [".lock"])


def test_missing_file_on_the_server(server: Server, tmp_path: Path) -> None:
    del server.files["test.zip"]
    with pytest.raises(DataError, match=r"test\.zip, found: Client error '404"):
        download_official(tmp_path, server.url, ARCHIVES)
    assert not (tmp_path / "GTSRB").exists()


def test_offline_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Check the network.*data=synthetic"):
        download_official(tmp_path, "http://127.0.0.1:9/", ARCHIVES)


def test_archive_that_does_not_unpack(server: Server, tmp_path: Path) -> None:
    server.files["gt.zip"] = b"no archive"
    archives = (*ARCHIVES[:2], Archive("gt.zip", hashlib.md5(b"no archive").hexdigest()))
    with pytest.raises(DataError, match=r"expected an archive at .*gt\.zip"):
        download_official(tmp_path, server.url, archives)
    assert not (tmp_path / "GTSRB").exists()


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="expected to write the benchmark's images"):
        download_official(tmp_path / "file" / "x", "http://127.0.0.1:9/", ARCHIVES)
    with pytest.raises(DataError, match="expected to write drawn images"):
        locate_raw(load_config(["data=synthetic", f"data.raw_dir={tmp_path}/file/x"]).data)


def test_leftovers_of_a_killed_unpacking_are_cleared(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".unpack-killed").mkdir()
    download_official(tmp_path, server.url, ARCHIVES)
    assert not (tmp_path / ".unpack-killed").exists()


def test_source_without_a_folder() -> None:
    with pytest.raises(ConfigError, match=r"data\.raw_dir"):
        locate_raw(load_config(["data=official", "data.raw_dir=null"]).data)


def test_synthetic_is_drawn_once(tmp_path: Path) -> None:
    settings = ["tracks_per_class=2", "frames_per_track=1", "test_tracks_per_class=1"]
    overrides = ["data=synthetic", f"data.raw_dir={tmp_path}", *(f"data.synthetic.{one}" for one in settings)]
    folder = locate_raw(load_config(overrides).data)
    assert folder is not None
    before = (folder / "Train.csv").stat().st_mtime_ns
    assert locate_raw(load_config(overrides).data) == folder
    assert (folder / "Train.csv").stat().st_mtime_ns == before
    assert len(read_layout(folder).train) == 86
