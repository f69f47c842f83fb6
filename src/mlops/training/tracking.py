"""Where metrics go: files in the run's folder, and Weights & Biases when asked for."""

import csv
import json
import logging
import os
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from src.mlops.config import Config
from src.mlops.files import write_atomically
from src.mlops.model_store import NAME
from src.mlops.run_folder import CONFIG

logger = logging.getLogger(__name__)
METRICS_FILE = "metrics.csv"
WANDB_ID = "wandb_id.txt"  # in the run's folder: a resumed run goes on under the same id


class Tracker(Protocol):
    """What training tells of itself."""

    def log(self, metrics: dict[str, float]) -> None:
        """Takes the metrics of one epoch."""

    def log_figure(self, path: Path) -> None:
        """Takes a PNG that lies in the run's folder."""

    def finish(self) -> None:
        """Ends the run."""


class CsvTracker:
    """Writes `config.json` and one line of `metrics.csv` per epoch into the run's folder.

    Args:
        run_dir: The run's folder.
        config: The whole resolved config.
        history: Metrics of the epochs done before, when a run is resumed.
    """

    def __init__(self, run_dir: Path, config: Config, history: list[dict[str, float]]) -> None:
        self._path = run_dir / METRICS_FILE
        # A run that was killed may have written a line for an epoch that is now repeated.
        self._path.unlink(missing_ok=True)
        for metrics in history:
            self.log(metrics)
        (run_dir / CONFIG).write_text(json.dumps(config.to_dict(), indent=2) + "\n")

    def log(self, metrics: dict[str, float]) -> None:
        """Appends a line; the first one writes the header too."""
        first = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, metrics)
            if first:
                writer.writeheader()
            writer.writerow(metrics)

    def log_figure(self, path: Path) -> None:
        """Does nothing: the figure is in the run's folder already."""

    def finish(self) -> None:
        """Does nothing: each line was written at once."""


class WandbTracker:
    """Logs to Weights & Biases as well: online when logged in, offline otherwise; never asks, never stops a training.

    Args:
        run_dir: The run's folder; offline runs are written below it.
        config: The whole resolved config.
        history: Metrics of the epochs done before, when a run is resumed.
    """

    def __init__(self, run_dir: Path, config: Config, history: list[dict[str, float]]) -> None:
        import wandb

        self._files = CsvTracker(run_dir, config, history)
        self._wandb = wandb
        self._failed = False
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        try:
            self._run = self._start(mode, run_dir, config)
        except Exception as error:  # whatever keeps W&B from the network must not keep us from training
            logger.warning("W&B cannot be used as WANDB_MODE=%s (%s): logging offline", mode, _first_line(error))
            self._run = self._start("offline", run_dir, config)
        if self._run.settings.mode == "offline":
            logger.info("W&B logs offline; `wandb sync %s` sends it later", Path(self._run.dir).parent)
        for metrics in history:  # W&B ignores what it has already; a killed run may not have sent all
            self._log(metrics)

    def _start(self, mode: Any, run_dir: Path, config: Config) -> Any:
        stored = run_dir / WANDB_ID
        if not stored.is_file():  # written first: a run that is killed while it starts is resumed as well
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
                settings=self._wandb.Settings(console="off", silent=True, init_timeout=30),
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
        """Does what needs W&B; a first failure is told, and from then on metrics go to the file only."""
        if self._failed:
            return
        try:
            work()
        except Exception as error:  # whatever W&B throws must not end a training
            self._failed = True
            logger.warning("W&B failed (%s): metrics go to %s only", _first_line(error), METRICS_FILE)


def start_tracking(run_dir: Path, config: Config, history: list[dict[str, float]]) -> Tracker:
    """Starts the tracker that `tracking.backend` names."""
    if config.tracking.backend == "wandb":
        try:
            return WandbTracker(run_dir, config, history)
        except Exception as error:
            logger.warning("W&B cannot be used (%s): metrics go to %s only", _first_line(error), METRICS_FILE)
    return CsvTracker(run_dir, config, history)


def publish_model(
    config: Config, version: str, files: list[Path], facts: dict[str, Any], stage: str | None = None
) -> None:
    """Makes a registered version known to W&B as an artifact with the same version and stage, where W&B is online.

    W&B keeps names such as `v3` for its own count, so that the alias is `gtsrb-v3`. What fails is told, and stops
    nothing: the registry is complete without it.

    Args:
        config: `tracking` names project and entity; nothing happens unless its backend is wandb.
        version: Such as `v3`.
        files: Files of a new version; none moves the alias of a stage to a version that is there.
        facts: Its manifest.
        stage: The stage that it is in now.
    """
    if config.tracking.backend != "wandb":
        return
    try:
        import wandb

        if os.environ.get("WANDB_MODE", "online") != "online" or not wandb.login(prompt=False):
            logger.info("W&B is offline: %s is in the registry only", version)
            return
        alias = f"{NAME}-{version}"
        if files:
            metadata = {key: facts[key] for key in ("commit", "data_fingerprint", "files", "created")}
            artifact = wandb.Artifact(NAME, type="model", metadata=metadata)
            for file in files:
                artifact.add_file(str(file))
            with wandb.init(project=config.tracking.project, entity=config.tracking.entity, job_type="register") as run:
                run.log_artifact(artifact, aliases=[alias])
        else:
            where = "/".join(filter(None, [config.tracking.entity, config.tracking.project, f"{NAME}:{alias}"]))
            found = wandb.Api().artifact(where)
            found.aliases.append(str(stage))
            found.save()
    except Exception as error:  # whatever W&B throws must not undo what is registered
        logger.warning("W&B does not know of %s (%s)", version, _first_line(error))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
