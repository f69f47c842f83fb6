"""The sources of raw data: a folder, archives, a bucket, the benchmark's official archives, or synthetic images."""

import logging
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import httpx2 as httpx
from tenacity import before_sleep_log, retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from src.mlops.config import DataConfig, SyntheticConfig
from src.mlops.data.archives import extract, fetch_archives, unpack_archive, unpack_archives
from src.mlops.data.synthetic.generate import drawing_version, generate
from src.mlops.errors import ConfigError, DataError
from src.mlops.io import files
from src.mlops.io.files import exclusive
from src.mlops.io.progress import progress_bar

logger = logging.getLogger(__name__)


class Archive(NamedTuple):
    """An archive of the benchmark and its MD5 hash."""

    name: str
    md5: str


OFFICIAL_URL = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
OFFICIAL_ARCHIVES = (
    Archive("GTSRB_Final_Training_Images.zip", "f33fd80ac59bff73c82d25ab499e03a3"),
    Archive("GTSRB_Final_Test_Images.zip", "c7e4e6327067d32654124b0fe9e82185"),
    Archive("GTSRB_Final_Test_GT.zip", "fe31e9c9270bbcd7b84b7f21a9d9d9e5"),
)


def locate_raw(data: DataConfig) -> Path | None:
    """Makes the raw images available.

    Returns:
        The raw folder, or None if `data.raw_dir` is null, which means that existing prepared data is used.

    Raises:
        DataError: Images cannot be downloaded, unpacked or rendered.
        StorageError: The bucket cannot be used.
        ConfigError: A setting of the source is missing.
    """
    if data.source == "local":
        return unpack_archive(data.raw_dir) if data.raw_dir and data.raw_dir.is_file() else data.raw_dir
    if data.raw_dir is None:
        raise ConfigError(
            f"data.source={data.source} needs data.raw_dir, the folder to write images to, but it is null."
        )
    if data.source == "official":
        return download_official(data.raw_dir)
    if data.source == "archives":
        return unpack_archives(data.raw_dir)
    if data.source == "gcs":
        if data.raw_url is None:
            raise ConfigError(
                "data.source=gcs needs data.raw_url, the URL of the archives, but it is null. Use data=gcs."
            )
        return unpack_archives(fetch_archives(data.raw_url, data.raw_dir))
    if data.synthetic is None:
        raise ConfigError(
            "data.source=synthetic needs the section data.synthetic, but it is missing. Use data=synthetic."
        )
    return draw_synthetic(data.raw_dir, data.synthetic)


def draw_synthetic(raw_dir: Path, settings: SyntheticConfig) -> Path:
    """Renders the synthetic images unless they already exist.

    Returns:
        The folder of the images. Its name contains the settings and the version of the drawings, so images of different
        ones are never mixed.
    """
    name = "{signs}_{tracks_per_class}x{frames_per_track}_{test_tracks_per_class}_seed{seed}_{version}".format(
        **settings.model_dump(), version=drawing_version()
    )
    folder = raw_dir / name
    if folder.is_dir():
        return folder
    try:
        with exclusive(raw_dir):
            _clear(raw_dir, ".*_seed*-*")  # of all settings and drawings, because rendering needs the lock
            if not folder.is_dir():  # another process may have rendered them in the meantime
                generate(folder, **settings.model_dump())
    except OSError as error:
        raise DataError(f"Cannot write synthetic images to {folder}: {error}.") from error
    return folder


def download_official(
    raw_dir: Path, base_url: str = OFFICIAL_URL, archives: tuple[Archive, ...] = OFFICIAL_ARCHIVES
) -> Path:
    """Downloads, verifies and unpacks the benchmark's archives, and keeps existing files.

    Args:
        raw_dir: Folder for the archives and images.
        base_url: URL of the folder of the archives.
        archives: Names and MD5 hashes of the archives.

    Returns:
        `raw_dir`.

    Raises:
        DataError: The server cannot be reached, or a file has the wrong MD5. A partial download is kept as `NAME.part`
            and resumed by the next run.
    """
    try:
        if not (raw_dir / "GTSRB").is_dir():
            with exclusive(raw_dir):
                _clear(raw_dir, ".unpack-*")
                for archive in archives:
                    _download(base_url + archive.name, raw_dir / archive.name, archive.md5)
                _unpack(raw_dir, archives)
    except OSError as error:
        raise DataError(f"Cannot write the benchmark's images to {raw_dir}: {error}.") from error
    return raw_dir


def _unpack(raw_dir: Path, archives: tuple[Archive, ...]) -> None:
    with tempfile.TemporaryDirectory(dir=raw_dir, prefix=".unpack-") as name:
        unpacked = Path(name)
        extract((raw_dir / archive.name for archive in archives), unpacked)
        (unpacked / "GTSRB").rename(raw_dir / "GTSRB")


def _clear(folder: Path, pattern: str) -> None:
    """Removes leftovers of killed processes; the folder is locked, so no other process uses them."""
    for leftover in folder.glob(pattern):
        shutil.rmtree(leftover)


def _download(url: str, target: Path, md5: str) -> None:
    if target.is_file() and files.md5(target) == md5:
        return
    part = target.with_name(target.name + ".part")
    try:
        _fetch(url, part)
    except httpx.HTTPError as error:
        raise DataError(
            f"Cannot download {url}: {error or type(error).__name__}. Check the network and run the command again; the "
            "partial download is kept and resumed. You can also download the archives elsewhere and copy them to "
            f"{target.parent}, or use data=synthetic, which needs no network."
        ) from error
    found = files.md5(part)
    if found != md5:
        part.unlink()
        raise DataError(f"{url} has the MD5 {found}, expected {md5}; the download was deleted. Run the command again.")
    part.rename(target)


@retry(
    retry=retry_if_exception_type(httpx.TransportError),
    stop=stop_after_attempt(3),
    wait=wait_exponential(max=4),
    before_sleep=before_sleep_log(logger, logging.WARNING),
    reraise=True,
)
def _fetch(url: str, part: Path) -> None:
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as response:
        if response.status_code == httpx.codes.RANGE_NOT_SATISFIABLE:
            return  # the partial file is already complete; the caller verifies its MD5
        response.raise_for_status()
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        have = have if resumed else 0
        total = have + int(response.headers.get("Content-Length", 0))
        with (
            part.open("ab" if resumed else "wb") as file,
            progress_bar(f"{part.stem} (kB)", total // 1000, have // 1000) as bar,
        ):
            for block in response.iter_raw():
                file.write(block)
                bar.update(len(block) / 1000)
