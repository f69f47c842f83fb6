"""Tests the download of the official archives from a local server."""

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from src.mlops.data.layouts import read_layout
from src.mlops.data.sources import Archive, download_official, locate_raw
from src.mlops.errors import ConfigError, DataError
from tests.helpers.images import make_image
from tests.helpers.synthetic import draw_quickly
from tests.helpers.tiny import quick_config

HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"


def ppm(seed: int) -> bytes:
    buffer = io.BytesIO()
    make_image(5, seed).save(buffer, "PPM")
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
    """Serves FILES with range requests; `cut` maps a file to the number of bytes after which it is interrupted once."""

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


def test_interrupted_download_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cut["train.zip"] = 100
    download_official(tmp_path, server.url, ARCHIVES)
    assert server.ranges[:2] == [None, "bytes=100-"]
    assert (tmp_path / "train.zip").read_bytes() == FILES["train.zip"]


def test_partial_download_of_an_earlier_run_is_resumed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "train.zip.part").write_bytes(FILES["train.zip"][:50])
    download_official(tmp_path, server.url, ARCHIVES)
    assert server.ranges[0] == "bytes=50-"


def test_wrong_bytes_are_rejected_and_deleted(server: Server, tmp_path: Path) -> None:
    server.files["train.zip"] = b"x" * 500
    with pytest.raises(DataError, match=r"train\.zip .*MD5"):
        download_official(tmp_path, server.url, ARCHIVES)
    assert [path.name for path in tmp_path.iterdir()] in ([], [".lock"])


def test_missing_file_on_the_server(server: Server, tmp_path: Path) -> None:
    del server.files["test.zip"]
    with pytest.raises(DataError, match=r"test\.zip: .*404"):
        download_official(tmp_path, server.url, ARCHIVES)
    assert not (tmp_path / "GTSRB").exists()


def test_error_without_network_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"127\.0\.0\.1:9/train\.zip: .*{re.escape(str(tmp_path))}.*data=synthetic"):
        download_official(tmp_path, "http://127.0.0.1:9/", ARCHIVES)


def test_archive_that_cannot_be_unpacked(server: Server, tmp_path: Path) -> None:
    server.files["gt.zip"] = b"no archive"
    archives = (*ARCHIVES[:2], Archive("gt.zip", hashlib.md5(b"no archive").hexdigest()))
    with pytest.raises(DataError, match=r"gt\.zip: File is not a zip file"):
        download_official(tmp_path, server.url, archives)
    assert not (tmp_path / "GTSRB").exists()


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"benchmark's images .*file/x: "):
        download_official(tmp_path / "file" / "x", "http://127.0.0.1:9/", ARCHIVES)
    with pytest.raises(DataError, match=r"synthetic images .*file/x/.*: "):
        locate_raw(quick_config(["data=synthetic", f"data.raw_dir={tmp_path}/file/x"]).data)


def test_leftovers_of_a_killed_unpacking_are_removed(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".unpack-killed").mkdir()
    download_official(tmp_path, server.url, ARCHIVES)
    assert not (tmp_path / ".unpack-killed").exists()


def test_source_without_a_folder() -> None:
    with pytest.raises(ConfigError, match=r"data\.source=official .*data\.raw_dir"):
        locate_raw(quick_config(["data=official", "data.raw_dir=null"]).data)


def test_leftovers_of_killed_renderings_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_quickly(monkeypatch)
    (tmp_path / "raw/.gtsrb_9x9_9_seed9_0123456789ab-abcdefgh").mkdir(parents=True)  # of other settings and drawings
    folder = locate_raw(quick_config(["data=synthetic", f"data.raw_dir={tmp_path}/raw"]).data)
    assert folder
    assert {path.name for path in folder.parent.iterdir()} == {".lock", folder.name}
