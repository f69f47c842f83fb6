"""Raw data under DVC: `python -m src.mlops.data.remote data_remote.action=push`, or `inv data-push`.

The archives lie in `data/raw/archives`, each with a small `.dvc` file that Git keeps. DVC moves the archives between
this machine, a folder (remote `local`) and the bucket (remote `storage`).
"""

import configparser
import hashlib
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from src.mlops import ROOT
from src.mlops.config import Config, hydra_main
from src.mlops.data.archives import pack_archives
from src.mlops.errors import ConfigError, DataError, StorageError
from src.mlops.storage import BUCKET

logger = logging.getLogger("src.mlops.data.remote")
ARCHIVES = Path("data/raw/archives")
STORAGE = "storage"


def pack(raw_dir: Path, root: Path = ROOT) -> list[Path]:
    """Packs a folder of images into archives and puts them under DVC.

    Raises:
        DataError: There is nothing to pack.
        StorageError: DVC fails.
    """
    archives = pack_archives(raw_dir, root / ARCHIVES)
    for pointer in (root / ARCHIVES).glob("*.dvc"):
        if not pointer.with_suffix("").exists():
            pointer.unlink()
    _dvc(root, "add", *(str(path.relative_to(root)) for path in archives))
    logger.info("packed %d archives; `git add %s`, and send them: `inv data-push`", len(archives), ARCHIVES)
    return archives


def push(remote: str, bucket: str, root: Path = ROOT) -> list[str]:
    """Sends the archives to a remote of `.dvc/config`.

    Args:
        remote: `local`, `storage`, or another one.
        bucket: The bucket of `storage`, without `gs://`.
        root: The repository.

    Returns:
        The archives' pointers. The bucket's versions are noted in them; Git has to keep them.

    Raises:
        DataError: No data is under DVC.
        StorageError: The remote is unknown or cannot be reached. What was there is as it was.
    """
    targets = _targets(root)
    _name_bucket(root, bucket)
    _dvc(root, "push", "--remote", remote, *targets)
    logger.info("%s is at the remote %s; commit %s if Git shows changes", ", ".join(targets), remote, ARCHIVES)
    return targets


def pull(remote: str, bucket: str, root: Path = ROOT) -> list[str]:
    """Fetches the archives from a remote and checks each by its hash.

    Raises:
        DataError: No data is under DVC, or an archive arrived damaged; it was removed.
        StorageError: The remote is unknown or cannot be reached, or does not have them all.
    """
    targets = _targets(root)
    _name_bucket(root, bucket)
    _dvc(root, "pull", "--remote", remote, *targets)
    require_complete(root)
    return targets


def require_complete(root: Path = ROOT) -> list[str]:
    """Checks that all archives are here and are what their pointers say, for DVC trusts what a bucket sends.

    Raises:
        DataError: One is missing, or is another one and was removed.
    """
    targets = _targets(root)
    wrong = [problem for target in targets if (problem := _problem(root, target))]
    if wrong:
        raise DataError(
            f"expected the archives that {ARCHIVES}/*.dvc name: {'; '.join(wrong)}. Fetch: `inv data-pull`."
        )
    return targets


def _targets(root: Path) -> list[str]:
    targets = sorted(str(path.relative_to(root)) for path in (root / ARCHIVES).glob("*.dvc"))
    if not targets:
        raise DataError(
            f"expected data under DVC ({ARCHIVES}/*.dvc), found none. Put it there: `inv data-pack --raw-dir FOLDER`."
        )
    return targets


def _problem(root: Path, target: str) -> str | None:
    """Compares an archive with its pointer, and removes it with DVC's own copy where it is another one."""
    path = (root / target).with_suffix("")
    expected = _md5_of(root / target)
    if not path.is_file():
        return f"{path.name} is missing"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found == expected:
        return None
    path.unlink()
    (root / ".dvc" / "cache" / "files" / "md5" / expected[:2] / expected[2:]).unlink(missing_ok=True)
    return f"{path.name} had the MD5 {found}, not {expected}, and was removed"


def _md5_of(pointer: Path) -> str:
    try:
        content: dict[str, Any] = yaml.safe_load(pointer.read_text())
        return str(content["outs"][0]["md5"])
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"expected a pointer of DVC at {pointer}, found: {error!r}. Restore it from Git.") from error


def bucket_folder(root: Path = ROOT) -> str:
    """Returns the URL of the remote `storage`, as .dvc/config has it.

    Raises:
        ConfigError: There is no such remote.
    """
    config = configparser.ConfigParser(interpolation=None)
    path = root / ".dvc" / "config"
    try:
        config.read_string(path.read_text())
        return config[f"'remote \"{STORAGE}\"'"]["url"]
    except (OSError, configparser.Error, KeyError) as error:
        raise ConfigError(f"expected the remote {STORAGE} in {path}, found: {error}. Restore it from Git.") from error


def _name_bucket(root: Path, bucket: str) -> None:
    """Writes the bucket that configshydra/cloud/gcp.yaml names into DVC's own configuration."""
    url = bucket_folder(root)
    found, _, folder = url.removeprefix(BUCKET).partition("/")
    if found != bucket:
        _dvc(root, "remote", "modify", STORAGE, "url", f"{BUCKET}{bucket}/{folder}")
        logger.info("the remote %s is in the bucket %s now; commit .dvc/config", STORAGE, bucket)


def _dvc(root: Path, *arguments: str) -> None:
    """Runs DVC; its last line of complaint becomes the error."""
    result = subprocess.run(  # noqa: S603 - arguments are names, not a shell's text
        [sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    if result.returncode:
        lines = [line.removeprefix("ERROR: ").strip() for line in result.stderr.splitlines() if line.strip()]
        told = [line for line in lines if "hint" not in line.lower()] or ["no reason"]
        reason = f"{' '.join(told[:3])[:500]} (exit code {result.returncode})"
        raise StorageError(
            f"expected `dvc {arguments[0]}` to succeed, found: {reason}. "
            "Remotes are named in .dvc/config, buckets in configshydra/cloud/gcp.yaml."
        )


def main(config: Config) -> None:
    """Packs, pushes or pulls, as `data_remote` says."""
    settings = config.data_remote
    if settings.action == "pack":
        if config.data.raw_dir is None:
            raise ConfigError("expected data.raw_dir, the folder to pack, found null.")
        pack(config.data.raw_dir)
    elif settings.action == "push":
        push(settings.name, config.cloud.bucket)
    else:
        pull(settings.name, config.cloud.bucket)


if __name__ == "__main__":
    hydra_main(main)
