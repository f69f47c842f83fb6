"""Writes metrics to files in the folder of the run, and to TensorBoard or Weights & Biases if configured."""

import csv
import importlib.util
import logging
import os
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from src.mlops.config import Config
from src.mlops.errors import ConfigError
from src.mlops.io.files import to_json, write_atomically
from src.mlops.training.run_dir import CONFIG

logger = logging.getLogger(__name__)
METRICS_FILE = "metrics.csv"
WANDB_ID = "wandb_id.txt"  # in the folder of the run: a resumed run keeps the same id


class Tracker(Protocol):
    """Receives the metrics and figures of a training."""

    def log(self, metrics: dict[str, float]) -> None:
        """Records the metrics of one epoch."""

    def log_figure(self, path: Path) -> None:
        """Records a PNG in the folder of the run."""

    def finish(self) -> None:
        """Ends the run."""


class CsvTracker:
    """Writes `config.json`, and one line of `metrics.csv` per epoch, to the folder of the run.

    Args:
        run_dir: The folder of the run.
        config: The complete resolved config.
        history: Metrics of the earlier epochs of a resumed run.
    """

    def __init__(self, run_dir: Path, config: Config, history: list[dict[str, float]]) -> None:
        self._path = run_dir / METRICS_FILE
        # A killed run may have written a line for an epoch that is now repeated.
        self._path.unlink(missing_ok=True)
        for metrics in history:
            self.log(metrics)
        (run_dir / CONFIG).write_text(to_json(config.to_dict(), indent=2) + "\n")

    def log(self, metrics: dict[str, float]) -> None:
        """Appends a line, after the header if the file is new."""
        first = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, metrics)
            if first:
                writer.writeheader()
            writer.writerow(metrics)

    def log_figure(self, path: Path) -> None:
        """Does nothing, because the figure is already in the folder of the run."""

    def finish(self) -> None:
        """Does nothing, because each line was written immediately."""


class TensorBoardTracker(CsvTracker):
    """Also writes event files for TensorBoard to the folder of the run.

    Args:
        run_dir: The folder of the run.
        config: The complete resolved config.
        history: Metrics of the earlier epochs of a resumed run.
    """

    def __init__(self, run_dir: Path, config: Config, history: list[dict[str, float]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # As for the CSV file: the points of a killed run are written again, so that none is missing or repeated.
        for events in run_dir.glob("events.out.tfevents.*"):
            events.unlink()
        self._writer: Any = SummaryWriter(run_dir)
        super().__init__(run_dir, config, history)
        self._writer.add_text("config", f"```\n{to_json(config.to_dict(), indent=2)}\n```")

    def log(self, metrics: dict[str, float]) -> None:
        """Writes the metrics of one epoch."""
        super().log(metrics)
        for name in metrics.keys() - {"epoch"}:
            self._writer.add_scalar(name, metrics[name], int(metrics["epoch"]))
        self._writer.flush()

    def log_figure(self, path: Path) -> None:
        """Writes a PNG under its file name."""
        with Image.open(path) as image:
            self._writer.add_image(path.stem, np.asarray(image.convert("RGB")), dataformats="HWC")

    def finish(self) -> None:
        """Closes the event file."""
        self._writer.close()


class WandbTracker:
    """Also logs to Weights & Biases: online if logged in, otherwise offline. Never prompts and never stops a training.

    Args:
        run_dir: The folder of the run. Offline runs are written below it.
        config: The complete resolved config.
        history: Metrics of the earlier epochs of a resumed run.
    """

    def __init__(self, run_dir: Path, config: Config, history: list[dict[str, float]]) -> None:
        import wandb

        self._files = CsvTracker(run_dir, config, history)
        self._wandb = wandb
        self._failed = False
        mode = self._mode()
        try:
            self._run = self._start(mode, run_dir, config)
        except Exception as error:  # W&B raises many types of errors, and none may stop the training
            _warn_offline(error)
            wandb.teardown()  # otherwise W&B refuses the ID, because the failed start still uses it
            self._run = self._start("offline", run_dir, config)
        if self._run.settings.mode == "offline":
            logger.info("W&B logs offline. Upload the run later with `wandb sync %s`", Path(self._run.dir).parent)
        for metrics in history:  # a killed run may not have sent all; W&B ignores epochs that it already has
            self._log(metrics)

    def _mode(self) -> str:
        mode = os.environ.get("WANDB_MODE") or "online"
        # Without a login, the start would prompt for a key. Without network, the login fails earlier than the start.
        try:
            return "offline" if mode == "online" and not self._wandb.login(prompt=False) else mode
        except Exception as error:
            # No teardown here: no run uses the ID yet, and W&B's process can miss the request to end while it cancels
            # the login (wandb 0.31). The teardown would then wait for it for ever.
            _warn_offline(error)
            return "offline"

    def _start(self, mode: Any, run_dir: Path, config: Config) -> Any:
        stored = run_dir / WANDB_ID
        if not stored.is_file():  # written before W&B starts, so that a run killed during the start keeps its id
            write_atomically(stored, (os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8]).encode())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._wandb.init(
                project=config.tracking.project,
                entity=config.tracking.entity,
                name=run_dir.name,
                dir=run_dir,
                config=config.to_dict(),
                mode=mode,
                id=stored.read_text(),
                resume="allow",
                settings=self._wandb.Settings(
                    console="off", silent=True, init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", "30"))
                ),
            )

    def log(self, metrics: dict[str, float]) -> None:
        """Logs the metrics of one epoch."""
        self._files.log(metrics)
        self._log(metrics)

    def _log(self, metrics: dict[str, float]) -> None:
        self._try(lambda: self._run.log(metrics, step=int(metrics["epoch"]), commit=True))

    def log_figure(self, path: Path) -> None:
        """Uploads a PNG under its file name."""
        self._try(lambda: self._run.log({path.stem: self._wandb.Image(str(path))}))

    def finish(self) -> None:
        """Ends the W&B run."""
        self._try(lambda: self._run.finish())

    def _try(self, work: Callable[[], object]) -> None:
        """Runs a call to W&B. After the first failure, which is logged, metrics go to the file only."""
        if self._failed:
            return
        try:
            work()
        except Exception as error:  # W&B raises many types of errors, and none may stop the training
            self._failed = True
            logger.warning("W&B failed (%s). Metrics now go to %s only", first_line(error), METRICS_FILE)


def require_tracking(config: Config) -> None:
    """Checks that the packages for `tracking.backend` are installed, before the data is prepared.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    if config.tracking.backend == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "tracking=tensorboard needs TensorBoard, which is not installed. Install it with "
            "`uv sync --group tensorboard`, or use tracking=csv."
        )


def start_tracking(run_dir: Path, config: Config, history: list[dict[str, float]]) -> Tracker:
    """Returns the tracker that `tracking.backend` names. If W&B cannot be used, this is a `CsvTracker`."""
    if config.tracking.backend == "tensorboard":
        return TensorBoardTracker(run_dir, config, history)
    if config.tracking.backend == "wandb":
        try:
            return WandbTracker(run_dir, config, history)
        except Exception as error:
            logger.warning("W&B cannot be used (%s). Metrics go to %s only", first_line(error), METRICS_FILE)
    return CsvTracker(run_dir, config, history)


def _warn_offline(error: Exception) -> None:
    logger.warning("W&B cannot be used online (%s). Logging offline", first_line(error))


def first_line(error: Exception) -> str:
    """Returns the first line of an error message, because those of W&B can have many lines."""
    return (str(error).splitlines() or [type(error).__name__])[0]
