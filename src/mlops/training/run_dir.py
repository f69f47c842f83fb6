"""The folder of one training run."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from src.mlops import ROOT
from src.mlops.config import Config
from src.mlops.errors import ConfigError

BEST = "best_model.pth"
LAST = "last.pth"
CONFIG = "config.json"
FINAL_FIT = "final_fit"
RUNS = ROOT / "models" / "runs"


def open_run_dir(config: Config) -> Path:
    """Returns the run's folder: a new one, or with `training.resume` the one to go on in.

    Raises:
        ConfigError: The folder cannot be written, holds another run, or there is none to resume.
    """
    if config.training.resume:
        runs = [config.run_dir] if config.run_dir else sorted(RUNS.glob("*"), reverse=True)
        for run_dir in runs:
            if (run_dir / CONFIG).is_file():
                return run_dir
        raise ConfigError(f"expected a run to resume in {config.run_dir or RUNS}, found none.")
    name = datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    wanted = [config.run_dir] if config.run_dir else [RUNS / name, *(RUNS / f"{name}_{n}" for n in range(2, 1000))]
    for run_dir in wanted:
        try:
            run_dir.mkdir(parents=True, exist_ok=bool(config.run_dir))
            (run_dir / CONFIG).touch(exist_ok=False)  # claims the folder: of two runs, one gets it
        except FileExistsError as error:
            if config.run_dir is None:
                continue  # another run of the same second
            raise ConfigError(
                f"expected a new folder as run_dir, found a finished or broken-off run, or a file, at {run_dir}. Name "
                "another, or go on with training.resume=true."
            ) from error
        except OSError as error:
            raise ConfigError(f"expected a folder to write the run to, found {run_dir}: {error}.") from error
        return run_dir
    raise ConfigError(f"expected a free name for the run in {RUNS}, found none.")


@contextmanager
def alone(run_dir: Path, *, enabled: bool) -> Iterator[None]:
    """Keeps a second process from going on with a run that is in progress, and clears what a kill left behind.

    Raises:
        ConfigError: Another process works on the run.
    """
    if not enabled:
        yield
        return
    lock = FileLock(run_dir / ".lock")
    try:
        lock.acquire(timeout=0)  # the system frees it when this process ends, however it ends
    except Timeout as error:
        raise ConfigError(
            f"expected a run that nobody works on, found {run_dir} in use by another process. Name another run_dir."
        ) from error
    try:
        for leftover in run_dir.glob("**/.*.pth-*"):  # of a write that was killed
            leftover.unlink()
        yield
    finally:
        lock.release()
        (run_dir / ".lock").unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Finds out before hours of training that their result could not be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"expected a writable folder, found {folder}: {error}.") from error


@contextmanager
def log_file(path: Path, *, enabled: bool) -> Iterator[None]:
    """Writes what the package logs to a file as well."""
    if not enabled:
        yield
        return
    package = logging.getLogger("src.mlops")
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    package.addHandler(handler)
    level = package.level
    package.setLevel(logging.INFO)  # also where nobody set logging up
    try:
        yield
    finally:
        package.setLevel(level)
        package.removeHandler(handler)
        handler.close()
