"""Raw data under DVC.

The archives are in `data/raw/archives`, each with a small `.dvc` file that is committed to Git. DVC copies the archives
between this machine, a folder (remote `local`) and the bucket (remote `storage`).
"""

import configparser
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from src.mlops import ROOT
from src.mlops.data.archives import pack_archives
from src.mlops.errors import ConfigError, DataError, GitError, StorageError
from src.mlops.io.files import md5
from src.mlops.io.git import git
from src.mlops.io.storage import BUCKET

logger = logging.getLogger(__name__)
ARCHIVES = Path("data/raw/archives")
STORAGE = "storage"


def pack(raw_dir: Path, root: Path = ROOT) -> list[Path]:
    """Packs a folder of images into archives and adds them to DVC.

    Raises:
        DataError: There is nothing to pack.
        GitError: The folder is not a Git repository.
        StorageError: DVC fails.
    """
    require_repository(root)
    archives = pack_archives(raw_dir, root / ARCHIVES)
    for pointer in (root / ARCHIVES).glob("*.dvc"):
        if not pointer.with_suffix("").exists():
            pointer.unlink()
    _dvc(root, "add", *(str(path.relative_to(root)) for path in archives))
    logger.info("Packed %d archives. Run `git add %s`, then upload them with `inv data.push`", len(archives), ARCHIVES)
    return archives


def push(remote: str, bucket: str, root: Path = ROOT) -> list[str]:
    """Uploads the archives to a remote in `.dvc/config`.

    Args:
        remote: `local`, `storage`, or another remote.
        bucket: Name of the bucket of `storage`, without `gs://`.
        root: The repository.

    Returns:
        The `.dvc` files of the archives. DVC writes the versions in the bucket to them, so commit them to Git.

    Raises:
        DataError: DVC tracks no data.
        StorageError: The remote is unknown or cannot be reached. Its content is unchanged.
    """
    targets = _targets(root)
    _name_bucket(root, remote, bucket)
    _dvc(root, "push", "--remote", remote, *targets)
    logger.info("Uploaded %s to the remote %s. Commit %s if Git shows changes", ", ".join(targets), remote, ARCHIVES)
    return targets


def pull(remote: str, bucket: str, root: Path = ROOT) -> list[str]:
    """Downloads the archives from a remote and verifies their hashes.

    Raises:
        DataError: DVC tracks no data, or a downloaded archive is corrupted and was removed.
        StorageError: The remote is unknown, cannot be reached, or does not have all archives.
    """
    targets = _targets(root)
    _name_bucket(root, remote, bucket)
    _dvc(root, "pull", "--remote", remote, *targets)
    require_complete(root)
    return targets


def require_repository(root: Path = ROOT) -> None:
    """Checks that DVC can work, before anything is written.

    Raises:
        GitError: The folder is not a Git repository, for example because it was downloaded as a .zip file.
    """
    try:
        git(root, "rev-parse", "--git-dir")
    except GitError as error:
        raise GitError(
            f"DVC needs a Git repository. {error} Clone the repository, or run `git init` in {root}."
        ) from error


def require_complete(root: Path = ROOT) -> list[str]:
    """Checks that all archives are here and match their `.dvc` files.

    This check is necessary because DVC does not verify downloads from a bucket.

    Raises:
        DataError: An archive is missing, or does not match and was removed.
    """
    targets = _targets(root)
    wrong = [problem for target in targets if (problem := _problem(root, target))]
    if wrong:
        raise DataError(
            f"The archives do not match {ARCHIVES}/*.dvc: {'; '.join(wrong)}. Fetch them with `inv data.pull`."
        )
    return targets


def _targets(root: Path) -> list[str]:
    targets = sorted(str(path.relative_to(root)) for path in (root / ARCHIVES).glob("*.dvc"))
    if not targets:
        raise DataError(
            f"DVC tracks no data: {ARCHIVES} contains no .dvc files. Add data with `inv data.pack --raw-dir FOLDER`."
        )
    return targets


def _problem(root: Path, target: str) -> str | None:
    """Compares an archive with its `.dvc` file and removes the archive and DVC's cached copy if they differ."""
    path = (root / target).with_suffix("")
    expected = _md5_of(root / target)
    if not path.is_file():
        return f"{path.name} is missing"
    found = md5(path)
    if found == expected:
        return None
    path.unlink()
    (root / ".dvc" / "cache" / "files" / "md5" / expected[:2] / expected[2:]).unlink(missing_ok=True)
    return f"{path.name} had the MD5 {found} instead of {expected} and was removed"


def _md5_of(pointer: Path) -> str:
    try:
        content: dict[str, Any] = yaml.safe_load(pointer.read_text())
        return str(content["outs"][0]["md5"])
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"Cannot read the DVC file {pointer}: {error!r}. Restore it from Git.") from error


def bucket_folder(root: Path = ROOT) -> str:
    """Returns the URL of the remote `storage` from .dvc/config, or from .dvc/config.local if it is also there.

    Raises:
        ConfigError: .dvc/config cannot be read or does not define the remote.
    """
    config = configparser.ConfigParser(interpolation=None)
    path = root / ".dvc" / "config"
    try:
        config.read_string(path.read_text())
        config.read(path.with_name("config.local"))
        return config[f"'remote \"{STORAGE}\"'"]["url"]
    except (OSError, configparser.Error, KeyError) as error:
        raise ConfigError(
            f"Cannot read the remote {STORAGE} from {path}: {error}. Restore the file from Git."
        ) from error


def _name_bucket(root: Path, remote: str, bucket: str) -> None:
    """Makes DVC use the given bucket on this machine: .dvc/config.local, which Git ignores, overrides .dvc/config."""
    if remote != STORAGE:
        return
    found, _, folder = bucket_folder(root).removeprefix(BUCKET).partition("/")
    if found != bucket:
        _dvc(root, "remote", "modify", "--local", STORAGE, "url", f"{BUCKET}{bucket}/{folder}")
        logger.info("The remote %s uses the bucket %s on this machine, see .dvc/config.local", STORAGE, bucket)


def _dvc(root: Path, *arguments: str) -> None:
    """Runs DVC and raises a StorageError with its error output if it fails."""
    result = subprocess.run(  # noqa: S603 - no shell is involved
        [sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    if result.returncode:
        lines = [line.removeprefix("ERROR: ").strip() for line in result.stderr.splitlines() if line.strip()]
        shown = [line for line in lines if "hint" not in line.lower()] or ["no error output"]
        reason = f"{' '.join(shown[:3])[:500]} (exit code {result.returncode})"
        raise StorageError(
            f"`dvc {arguments[0]}` failed: {reason}. Remotes are defined in .dvc/config, buckets in "
            "configshydra/cloud/gcp.yaml."
        )
