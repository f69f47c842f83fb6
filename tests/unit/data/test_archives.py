"""Unpacks damaged, encrypted and malicious archives."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from src.mlops.data.archives import extract, unpack_archives
from src.mlops.errors import DataError

# Compressible, but longer than the buffers of the decompressors.
CONTENT = np.random.default_rng(0).integers(0, 20, 50_000, np.uint8).tobytes()
ZIPS = {
    "stored": zipfile.ZIP_STORED,
    "deflated": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}
TARS = {"tar": "w:", "tar.gz": "w:gz", "tgz": "w:gz"}


def zipped(compression: int = zipfile.ZIP_STORED, name: str = "Train/0/a.png") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr(name, CONTENT)
    return buffer.getvalue()


def tarred(mode: str, name: str = "Train/0/a.png") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for entry in (tarfile.TarInfo(name), tarfile.TarInfo(f"{name}.2")):
            entry.size = len(CONTENT)
            archive.addfile(entry, io.BytesIO(CONTENT))
    return buffer.getvalue()


GOOD = {f"{kind}.zip": zipped(compression) for kind, compression in ZIPS.items()} | {
    f"packed.{kind}": tarred(mode) for kind, mode in TARS.items()
}


@pytest.mark.parametrize("name", GOOD)
def test_good_archives(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(GOOD[name])
    extract([tmp_path / name], tmp_path / "out")
    assert (tmp_path / "out/Train/0/a.png").read_bytes() == CONTENT


@pytest.mark.parametrize(("system", "path"), [(0, "Train/0/a.png"), (3, r"Train\0\a.png")])
def test_backslashes_are_separators_in_archives_of_windows(system: int, path: str, tmp_path: Path) -> None:
    entry = zipfile.ZipInfo(r"Train\0\a.png")
    entry.create_system = system
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, CONTENT)
    extract([tmp_path / "a.zip"], tmp_path / "out")
    assert (tmp_path / "out" / path).read_bytes() == CONTENT


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.8])
def test_truncated_archives(name: str, share: float, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(GOOD[name][: int(share * len(GOOD[name]))])
    with pytest.raises(DataError, match=f"Cannot unpack .*{name}: .*again"):
        extract([tmp_path / name], tmp_path / "out")


@pytest.mark.parametrize("name", sorted(GOOD.keys() - {"packed.tar"}))  # a plain tar file has no checksums of contents
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_damaged_archives(name: str, share: float, tmp_path: Path) -> None:
    content = bytearray(GOOD[name])
    place = int(share * len(content))
    content[place : place + 8] = b"\xff\x00\xff\x00\xff\x00\xff\x00"
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"Cannot unpack .*{name}: .*again"):
        extract([tmp_path / name], tmp_path / "out")


def test_one_damaged_byte_anywhere_gives_one_kind_of_error(tmp_path: Path) -> None:
    content = zipped(zipfile.ZIP_DEFLATED)
    for place in [*range(60), *range(len(content) - 100, len(content))]:
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        (tmp_path / "a.zip").write_bytes(damaged)
        try:
            extract([tmp_path / "a.zip"], tmp_path / f"out{place}")
        except DataError as error:
            assert "a.zip" in str(error)  # noqa: PT017 - some bytes, such as times, do no harm


def test_a_damaged_header_in_a_tar_file_loses_no_file_silently(tmp_path: Path) -> None:
    content = bytearray(GOOD["packed.tar"])
    content[content.index(b"Train/0/a.png.2")] = 0xFF
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tar: .*damaged between"):
        extract([tmp_path / "a.tar"], tmp_path / "out")


def test_an_encrypted_archive(tmp_path: Path) -> None:
    content = bytearray(zipped())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags of the file and of the directory
        content[content.index(signature) + offset] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip: it is encrypted.*without a password"):
        extract([tmp_path / "a.zip"], tmp_path / "out")


@pytest.mark.parametrize("name", ["../../outside.txt", "/outside.txt", "a/../../outside.txt", "..\\outside.txt"])
def test_no_zip_file_can_write_outside_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "evil.zip").write_bytes(zipped(name=name))
    with pytest.raises(DataError, match=r"evil\.zip: .*outside\.txt.*outside the archive's folder"):
        extract([tmp_path / "evil.zip"], tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("*outside*"))


def test_no_tar_file_can_write_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "evil.tar.gz").write_bytes(tarred("w:gz", "../../outside.txt"))
    with pytest.raises(DataError, match=r"evil\.tar\.gz: .*outside\.txt.* outside the destination"):
        extract([tmp_path / "evil.tar.gz"], tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("*outside*"))


def test_a_damaged_archive_replaces_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "archives"
    folder.mkdir()
    (folder / "Train.zip").write_bytes(GOOD["deflated.zip"])
    image = unpack_archives(folder) / "Train/0/a.png"
    damaged = bytearray(GOOD["deflated.zip"])
    damaged[1000:1100] = bytes(100)
    (folder / "Train.zip").write_bytes(damaged)
    with pytest.raises(DataError, match=r"archives/Train\.zip: "):
        unpack_archives(folder)
    assert image.read_bytes() == CONTENT
