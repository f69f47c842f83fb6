"""Training in a container: downloads the data, trains, and uploads the model.

The variables of Vertex AI are the defaults of the options: AIP_MODEL_DIR, AIP_CHECKPOINT_DIR, AIP_TRAINING_DATA_URI,
and CLUSTER_SPEC, which describes the machines of the job. Outside Vertex AI, mounted folders can replace the buckets.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tenacity import before_sleep_log, retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from src.mlops import ROOT
from src.mlops.config import Config, load_config
from src.mlops.data.archives import extract
from src.mlops.errors import ConfigError, DataError, StorageError, TrainingError
from src.mlops.io.files import sha256, to_json
from src.mlops.io.secret_manager import read_secret
from src.mlops.io.storage import Storage, open_storage, split_url
from src.mlops.training.run_dir import BEST, CONFIG, FINAL_FIT, LAST
from src.mlops.training.tracking import METRICS_FILE, WANDB_ID

logger = logging.getLogger(__name__)
SUMS = "SHA256SUMS"  # written last: without it the folder is incomplete. Check with `sha256sum -c`
RESOLVED = "config.json"
MIRROR_SECONDS = 30.0  # between two checks for a new checkpoint
ATTEMPTS = 6  # of the uploads after the training, within about a minute
WANDB_SECRET = "WANDB_SECRET"  # noqa: S105 - the variable with the name of the secret
# Files of a run that it needs to resume; each LAST comes before the other files of its folder.
MIRRORED = (LAST, f"{FINAL_FIT}/{LAST}", BEST, METRICS_FILE, CONFIG, WANDB_ID)
OWN_DATA = ("data.source=local", "data.synthetic=null", "data.raw_url=null")  # for raw images that a job names
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_CONNECTIONS = 16


@dataclass(frozen=True)
class Job:
    """The task of a container.

    Attributes:
        out: Destination of the model: `gs://` URL or folder.
        folder: Folder on this machine for the downloaded data and the state of the run. A run in it is resumed.
        data: Raw images: `gs://` URL or folder in a supported layout, or an archive of one. With None, the overrides
            name the data.
        collected: Labelled images of the service, as `inv labels.export` writes them: the same forms as for `data`.
        checkpoints: `gs://` URL or folder for the state of the run, from which an interrupted job can resume. With
            None, the state is not kept.
        overrides: Hydra overrides for the training.
    """

    out: str
    folder: Path
    data: str | None = None
    collected: str | None = None
    checkpoints: str | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """The machines of a job, in the form that torchrun takes.

    Attributes:
        nodes: Number of machines.
        rank: Number of this machine. Machine 0 uploads the model.
        address: Host name or IP address of machine 0.
        port: Port of machine 0 that the other machines connect to.
    """

    nodes: int = 1
    rank: int = 0
    address: str = "127.0.0.1"
    port: int = 29500


def run(job: Job, cluster: Cluster, mirror_seconds: float = MIRROR_SECONDS) -> Path:
    """Downloads the data, trains and exports in a subprocess, and uploads the model.

    A finished training is not repeated: if only its upload failed, a second call uploads the model.

    Returns:
        The path of the trained checkpoint on this machine.

    Raises:
        ConfigError: An override is invalid.
        StorageError: The data cannot be read, or the destination of the model cannot be written. Both are checked
            before the training.
        TrainingError: The training failed, or its model cannot be uploaded. The message names the files.
    """
    out, checkpoints = open_storage(job.out), open_storage(job.checkpoints) if job.checkpoints else None
    run_dir = job.folder / "run"
    # The data of the job has priority over the overrides.
    source = OWN_DATA if job.data else ()
    overrides = [*job.overrides, *source, f"run_dir='{run_dir}'"]
    config = load_config(overrides)
    chief = cluster.rank == 0
    if chief:
        out.remove(SUMS)  # from now on, the files of an earlier attempt are incomplete
        out.write(RESOLVED, to_json(config.to_dict(), indent=2).encode())
    if job.data:
        overrides.append(f"data.raw_dir='{fetch(job.data, job.folder / 'raw')}'")
    if job.collected:
        overrides.append(f"data.collected='{fetch(job.collected, job.folder / 'collected')}'")
    if chief and _can_resume(run_dir, checkpoints):
        overrides.append("training.resume=true")
    with _mirrored(run_dir, checkpoints if chief else None, mirror_seconds):
        _train(overrides, config, cluster)
    if chief:
        try:
            _persistently(lambda: _upload_model(config, run_dir, out))
        except StorageError as error:
            raise TrainingError(
                f"The training has finished, but its model cannot be uploaded: {error} On this machine, the model is "
                f"{config.ckpt_path}, and the run is {run_dir}. To upload the model without training again, run the "
                f"same command with --folder {job.folder}, or on another machine with the same --checkpoints."
            ) from error
    return config.ckpt_path


def fetch(url: str, target: Path) -> Path:
    """Copies raw images to this machine, and unpacks them if they are in an archive.

    Args:
        url: `gs://` URL or path of a folder, or of a .zip or .tar archive.
        target: Folder to copy them to.

    Returns:
        The folder of the images. A local folder is not copied.

    Raises:
        DataError: There are no files at the URL, or an archive cannot be unpacked.
        StorageError: The URL cannot be read.
    """
    if url.endswith(_ARCHIVES):
        folder, name = split_url(url)
        open_storage(folder).download(name, target / name)
        extract([target / name], target / "images")
        return target / "images"
    if "://" not in url:
        return ROOT / Path(url).expanduser()
    storage = open_storage(url)
    names = storage.names()
    if not names:
        raise DataError(f"No raw images in {url}. Check the URL, or upload the images first.")
    logger.info("Fetching %s files from %s. A single .zip file would be faster", f"{len(names):,}", url)
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        list(pool.map(lambda name: storage.download(name, target / name), names))
    return target


def read_cluster(environment: Mapping[str, str]) -> Cluster:
    """Reads the machines of a job from Vertex AI's CLUSTER_SPEC, or returns one machine if it is not set.

    Raises:
        ConfigError: CLUSTER_SPEC is invalid.
    """
    text = environment.get("CLUSTER_SPEC")
    if not text:
        return Cluster()
    try:
        spec = json.loads(text)
        pools: dict[str, list[str]] = spec["cluster"]
        kind, index = spec["task"]["type"], int(spec["task"]["index"])
        order = [(name, place) for name in sorted(pools) for place in range(len(pools[name]))]
        host, _, port = pools["workerpool0"][0].rpartition(":")
        return Cluster(len(order), order.index((kind, index)), host, int(port))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"CLUSTER_SPEC must contain cluster and task, as set by Vertex AI, but is {text[:200]!r} ({error!r})."
        ) from error


def read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Reads the locations of data, checkpoints and model from Vertex AI's environment variables.

    Raises:
        ConfigError: The data is a managed dataset, which contains no folder of images.
    """
    kind = environment.get("AIP_DATA_FORMAT")
    if kind not in (None, ""):
        raise ConfigError(
            f"The data must be a folder or an archive of images, but is a managed dataset (AIP_DATA_FORMAT={kind}). "
            "Start the job without the dataset and with --data."
        )
    names = {"out": "AIP_MODEL_DIR", "checkpoints": "AIP_CHECKPOINT_DIR", "data": "AIP_TRAINING_DATA_URI"}
    return {option: environment.get(name) or None for option, name in names.items()}


def _train(overrides: Sequence[str], config: Config, cluster: Cluster) -> None:
    import torch  # the import takes seconds, and listing the commands does not need it

    per_node = max(1, torch.cuda.device_count())
    command = [sys.executable, "-m", "src.mlops.train", *overrides]
    if cluster.nodes * per_node > 1:
        command[1:2] = [
            *("-m", "torch.distributed.run", f"--nnodes={cluster.nodes}", f"--nproc-per-node={per_node}"),
            *(f"--node-rank={cluster.rank}", f"--master-addr={cluster.address}", f"--master-port={cluster.port}", "-m"),
        ]
    environment = dict(os.environ)
    secret = environment.pop(WANDB_SECRET, None)
    if secret and config.tracking.backend == "wandb" and "WANDB_API_KEY" not in environment:
        environment["WANDB_API_KEY"] = read_secret(secret)
    process = subprocess.Popen(command, cwd=ROOT, env=environment)  # noqa: S603 - this package's own module
    with _forwarding_sigterm(process):
        code = process.wait()
    if code:
        raise TrainingError(
            f"The training failed with exit code {code}. See its error above. If the job has a folder for checkpoints, "
            "start it again to resume the training."
        )


@contextmanager
def _forwarding_sigterm(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Forwards SIGTERM to the training, so that its last checkpoint is uploaded before the container ends."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        process.terminate()

    former = signal.signal(signal.SIGTERM, stop) if threading.current_thread() is threading.main_thread() else None
    try:
        yield
    finally:
        if former is not None:
            signal.signal(signal.SIGTERM, former)


@contextmanager
def _mirrored(run_dir: Path, checkpoints: Storage | None, seconds: float) -> Iterator[None]:
    """Uploads the state of the run after each epoch and at the end, so that it is not lost with this machine."""
    if checkpoints is None:
        yield
        return
    send = _sender(run_dir, checkpoints)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(seconds):
            try:
                send()
            except StorageError as error:  # must not stop the training
                logger.warning("Cannot upload the checkpoint, will retry in %.0f s: %s", seconds, error)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        try:
            _persistently(send)
        except StorageError as error:  # must not hide the result of the training
            logger.warning("Cannot upload the last checkpoint: %s It is in %s on this machine", error, run_dir)


def _sender(run_dir: Path, checkpoints: Storage) -> Callable[[], None]:
    sent: dict[str, int] = {}

    def send() -> None:
        changed = {}
        # A run resumes from LAST, so it is read first and uploaded last. The other files are then at least as new.
        for name in MIRRORED:
            path = run_dir / name
            with suppress(FileNotFoundError):  # not written yet, or deleted at this moment, as a resumed run does
                modified = path.stat().st_mtime_ns
                if sent.get(name) != modified:
                    changed[name] = (modified, path.read_bytes())
        for name, (modified, content) in reversed(changed.items()):
            checkpoints.write(name, content)
            sent[name] = modified

    return send


def _persistently(upload: Callable[[], object]) -> None:
    """Uploads with more patience than `Storage` has, because the result of hours of training is at stake."""
    retry(
        retry=retry_if_exception_type(StorageError),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=2, max=60),
        before_sleep=before_sleep_log(logger, logging.WARNING),
        reraise=True,
    )(upload)()


def _can_resume(run_dir: Path, checkpoints: Storage | None) -> bool:
    """Returns whether there is a run to resume. Downloads its state if it is not on this machine."""
    if (run_dir / LAST).is_file():  # at least as new as the uploaded state
        return True
    names = checkpoints.names() if checkpoints else []
    if checkpoints is None or LAST not in names:
        return (run_dir / CONFIG).is_file()  # killed in the first epoch
    logger.info("Resuming the run in %s", checkpoints.url)
    for name in names:
        checkpoints.download(name, run_dir / name)
    return True


def _upload_model(config: Config, run_dir: Path, out: Storage) -> None:
    model = config.ckpt_path
    sums = []
    for path in (model, model.with_suffix(".onnx"), run_dir / METRICS_FILE, run_dir / "train.log"):
        if path.is_file():
            out.upload(path, path.name)
            sums.append(f"{sha256(path)}  {path.name}\n")
    out.write(SUMS, "".join(sums).encode())
    logger.info("Uploaded the model to %s", out.url)
