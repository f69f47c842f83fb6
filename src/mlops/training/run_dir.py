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
from src.mlops.errors import CheckpointError, ConfigError, TrainingError

BEST = "best_model.pth"
LAST = "last.pth"
CONFIG = "config.json"
FINAL_FIT = "final_fit"
RUNS = ROOT / "models" / "runs"


def open_run_dir(config: Config) -> Path:
    """Returns the folder of the run: a new one, or with `training.resume` the folder of the run to resume.

    Raises:
        ConfigError: The folder cannot be written or contains another run, or there is no run to resume.
    """
    if config.training.resume:
        runs = [config.run_dir] if config.run_dir else sorted(RUNS.glob("*"), reverse=True)
        for run_dir in runs:
            if (run_dir / CONFIG).is_file():
                require_writable(run_dir)
                return run_dir
        raise ConfigError(f"No run to resume in {config.run_dir or RUNS}. Start a new run with training.resume=false.")
    name = datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    wanted = [config.run_dir] if config.run_dir else [RUNS / name, *(RUNS / f"{name}_{n}" for n in range(2, 1000))]
    for run_dir in wanted:
        try:
            run_dir.mkdir(parents=True, exist_ok=bool(config.run_dir))
            (run_dir / CONFIG).touch(exist_ok=False)  # reserves the folder: if two runs try, only one succeeds
        except FileExistsError as error:
            if config.run_dir is None:
                continue  # another run started in the same second
            raise ConfigError(
                f"run_dir must be a new folder, but {run_dir} is a file or contains a finished or interrupted run. Set "
                "another run_dir, or resume the run with training.resume=true."
            ) from error
        except OSError as error:
            raise ConfigError(f"Cannot create the folder of the run, {run_dir}: {error}.") from error
        return run_dir
    raise ConfigError(f"No free name for a new run in {RUNS}. Set run_dir.")


@contextmanager
def alone(run_dir: Path, *, enabled: bool) -> Iterator[None]:
    """Locks a run against other processes, and deletes the temporary files of a killed process.

    Raises:
        ConfigError: Another process uses the run.
    """
    if not enabled:
        yield
        return
    lock = FileLock(run_dir / ".lock")  # never deleted: another process could be about to lock the deleted file
    try:
        lock.acquire(timeout=0)  # the operating system releases it even if this process is killed
    except Timeout as error:
        raise ConfigError(f"The run in {run_dir} is in use by another process. Set a different run_dir.") from error
    try:
        for leftover in run_dir.glob("**/.*.pth-*"):  # from interrupted writes
            leftover.unlink()
        yield
    finally:
        lock.release()


@contextmanager
def saving(run_dir: Path) -> Iterator[None]:
    """Reports a failed write to the folder of the run or to `ckpt_path`, and how to continue.

    Raises:
        TrainingError: A file cannot be written.
    """
    try:
        yield
    except (OSError, CheckpointError) as error:
        fault = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(fault, OSError):
            raise
        raise TrainingError(
            f"Cannot save the results of the run in {run_dir}: {fault}. Earlier checkpoints are kept. Fix the cause, "
            "for example a full disk, and resume with training.resume=true."
        ) from error


def require_writable(folder: Path) -> None:
    """Checks that the folder for the result can be written, before hours of training.

    Raises:
        ConfigError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"Cannot write to the folder {folder}: {error}.") from error


@contextmanager
def log_file(path: Path, *, enabled: bool) -> Iterator[None]:
    """Writes the log of the package to a file, in addition to the usual output."""
    if not enabled:
        yield
        return
    package = logging.getLogger("src.mlops")
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    package.addHandler(handler)
    level = package.level
    package.setLevel(logging.INFO)  # needed if the caller has not configured logging
    try:
        yield
    finally:
        package.setLevel(level)
        package.removeHandler(handler)
        handler.close()
