"""Training in a container: fetch data, train, hand the model over. `python -m src.mlops.train_job --out gs://… data=…`.

Vertex AI's variables are the defaults of the options: AIP_MODEL_DIR, AIP_CHECKPOINT_DIR, AIP_TRAINING_DATA_URI and
CLUSTER_SPEC, by which several machines find each other. Elsewhere a mounted folder does instead of a bucket.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import torch
import typer

from src.mlops import ROOT
from src.mlops.config import Config, load_config
from src.mlops.errors import ConfigError, DataError, MlopsError, StorageError, TrainingError, report
from src.mlops.run_folder import BEST, CONFIG, LAST
from src.mlops.secrets import read_secret
from src.mlops.storage import Storage, open_storage, sha256, split_url

logger = logging.getLogger("src.mlops.train_job")
SUMS = "SHA256SUMS"  # written last: a folder without it is not whole. `sha256sum -c SHA256SUMS` checks it
RESOLVED = "config.json"
MIRROR_SECONDS = 30.0  # between two looks whether there is a new checkpoint
WANDB_SECRET = "WANDB_SECRET"  # noqa: S105 - the variable that holds the secret's name
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_CONNECTIONS = 16


@dataclass(frozen=True)
class Job:
    """What a container is to do.

    Attributes:
        out: Where the model goes: `gs://` URL or folder.
        folder: Where on this machine fetched data and the run's state lie; one that is new.
        data: Raw images: `gs://` URL or folder of a layout that is known, or an archive of one. None leaves the
            overrides to say where data comes from.
        checkpoints: Where the state of the run is kept, so that an interrupted job goes on. None keeps none.
        overrides: Hydra overrides of the training.
    """

    out: str
    folder: Path
    data: str | None = None
    checkpoints: str | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """The machines of a job, as torchrun wants to know them.

    Attributes:
        nodes: Number of machines.
        rank: This one's number; 0 hands the model over.
        address: Host of machine 0.
        port: Port there that the others connect to.
    """

    nodes: int = 1
    rank: int = 0
    address: str = "127.0.0.1"
    port: int = 29500


def run(job: Job, cluster: Cluster, mirror_seconds: float = MIRROR_SECONDS) -> Path:
    """Fetches data, trains and exports in processes of their own, and hands the model over.

    Returns:
        The trained checkpoint on this machine.

    Raises:
        ConfigError: An override is refused.
        StorageError: Data cannot be read, or the place for the model cannot be written: found out before training.
        TrainingError: The training failed.
    """
    out, checkpoints = open_storage(job.out), open_storage(job.checkpoints) if job.checkpoints else None
    run_dir = job.folder / "run"
    # Whatever the overrides say of data: what was named as data is trained on.
    source = ["data.source=local"] if job.data else []
    overrides = [*job.overrides, *source, f"run_dir='{run_dir}'"]
    config = load_config(overrides)
    chief = cluster.rank == 0
    if chief:
        out.remove(SUMS)  # what may lie there of another attempt is not whole from here on
        out.write(RESOLVED, json.dumps(config.to_dict(), indent=2).encode())
    if job.data:
        overrides.append(f"data.raw_dir='{fetch(job.data, job.folder / 'raw')}'")
    if chief and checkpoints and _restore(checkpoints, run_dir):
        overrides.append("training.resume=true")
    with _mirrored(run_dir, checkpoints if chief else None, mirror_seconds):
        _train(overrides, cluster)
    if chief:
        _hand_over(config, run_dir, out)
    return config.ckpt_path


def fetch(url: str, target: Path) -> Path:
    """Copies raw images to this machine, and unpacks them when they come as one archive.

    Args:
        url: `gs://` URL or path of a folder, or of a .zip or .tar archive.
        target: Folder to put them into.

    Returns:
        The folder of the images; a folder of this machine is used where it is.

    Raises:
        DataError: There is nothing at the URL, or an archive cannot be unpacked.
        StorageError: It cannot be read.
    """
    if url.endswith(_ARCHIVES):
        folder, name = split_url(url)
        open_storage(folder).download(name, target / name)
        return _unpack(target / name, target / "images")
    if "://" not in url:
        return ROOT / url
    storage = open_storage(url)
    names = storage.names()
    if not names:
        raise DataError(f"expected raw images below {url}, found none. Check the address, or send them there first.")
    logger.info("fetching %s files from %s; one .zip of them would be faster", f"{len(names):,}", url)
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        list(pool.map(lambda name: storage.download(name, target / name), names))
    return target


def read_cluster(environment: Mapping[str, str]) -> Cluster:
    """Reads Vertex AI's CLUSTER_SPEC; one machine where there is none.

    Raises:
        ConfigError: It cannot be understood.
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
            f"expected CLUSTER_SPEC as Vertex AI sets it (cluster, task), found {text[:200]!r} ({error!r})."
        ) from error


def _unpack(archive: Path, target: Path) -> Path:
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as file:
                file.extractall(target)  # noqa: S202 - zipfile keeps it inside of the target
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(target, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DataError(f"expected an archive of raw images at {archive.name}, found: {error}.") from error
    return target


def _train(overrides: Sequence[str], cluster: Cluster) -> None:
    per_node = max(1, torch.cuda.device_count())
    command = [sys.executable, "-m", "src.mlops.train", *overrides]
    if cluster.nodes * per_node > 1:
        command[1:2] = [
            *("-m", "torch.distributed.run", f"--nnodes={cluster.nodes}", f"--nproc-per-node={per_node}"),
            *(f"--node-rank={cluster.rank}", f"--master-addr={cluster.address}", f"--master-port={cluster.port}", "-m"),
        ]
    environment = dict(os.environ)
    secret = environment.pop(WANDB_SECRET, None)
    if secret and "tracking=wandb" in overrides and "WANDB_API_KEY" not in environment:
        environment["WANDB_API_KEY"] = read_secret(secret)
    process = subprocess.Popen(command, cwd=ROOT, env=environment)  # noqa: S603 - this package's own module
    with _passing_on_sigterm(process):
        code = process.wait()
    if code:
        raise TrainingError(
            f"expected the training to end well, found exit code {code}; what was wrong stands above. "
            "With a place for checkpoints, the same job goes on where it was."
        )


@contextmanager
def _passing_on_sigterm(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Ends the training too when the container is told to end; its last checkpoint is then handed over."""

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
    """Sends the run's state to where it outlives this machine, after each epoch and at the end."""
    if checkpoints is None:
        yield
        return
    send = _sender(run_dir, checkpoints)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(seconds):
            try:
                send()
            except StorageError as error:  # the training goes on; the next look tries again
                logger.warning("the checkpoint was not sent: %s", error)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        send()


def _sender(run_dir: Path, checkpoints: Storage) -> Callable[[], None]:
    sent: dict[str, int] = {}

    def send() -> None:
        changed = {}
        # What resuming begins with is read first and sent last: what lies beside it there is as new as it, or newer.
        for name in (LAST, BEST, "metrics.csv", CONFIG):
            path = run_dir / name
            if path.is_file() and sent.get(name) != path.stat().st_mtime_ns:
                changed[name] = (path.stat().st_mtime_ns, path.read_bytes())
        for name, (modified, content) in reversed(changed.items()):
            checkpoints.write(name, content)
            sent[name] = modified

    return send


def _restore(checkpoints: Storage, run_dir: Path) -> bool:
    """Fetches the state of an earlier attempt, if there is one."""
    names = checkpoints.names()
    if LAST not in names:
        return False
    logger.info("going on with the run in %s", checkpoints.url)
    for name in names:
        checkpoints.download(name, run_dir / name)
    return True


def _hand_over(config: Config, run_dir: Path, out: Storage) -> None:
    model = config.ckpt_path
    sums = []
    for path in (model, model.with_suffix(".onnx"), run_dir / "metrics.csv", run_dir / "train.log"):
        if path.is_file():
            out.upload(path, path.name)
            sums.append(f"{sha256(path)}  {path.name}\n")
    out.write(SUMS, "".join(sums).encode())
    logger.info("the model is at %s", out.url)


def read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Reads what Vertex AI tells a container about its places.

    Raises:
        ConfigError: The data is of a kind that holds no pictures.
    """
    kind = environment.get("AIP_DATA_FORMAT")
    if kind not in (None, ""):
        raise ConfigError(
            f"expected a folder or an archive of pictures, found a managed dataset, AIP_DATA_FORMAT={kind}. Start the "
            "job without one and give --data."
        )
    names = {"out": "AIP_MODEL_DIR", "checkpoints": "AIP_CHECKPOINT_DIR", "data": "AIP_TRAINING_DATA_URI"}
    return {option: environment.get(name) or None for option, name in names.items()}


def _new_folder() -> Path:
    parent = ROOT / "data"
    try:
        parent.mkdir(exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="job-", dir=parent))
    except OSError as error:
        raise StorageError(f"expected to write to {parent}, found: {error}. Name a folder with --folder.") from error


def main(
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides such as data=synthetic.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder or gs:// URL for the model; else AIP_MODEL_DIR.")] = None,
    data: Annotated[str | None, typer.Option(help="Raw images: folder, .zip, .tar or gs:// URL.")] = None,
    checkpoints: Annotated[
        str | None, typer.Option(help="Folder or gs:// URL of the run's state; else AIP_CHECKPOINT_DIR.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where fetched data and the run lie meanwhile.")] = None,
) -> None:
    """Fetches data, trains, exports and hands the model over."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        given = {"out": out, "data": data, "checkpoints": checkpoints}
        places: dict[str, Any] = {name: given[name] or told for name, told in read_environment(os.environ).items()}
        if not places["out"]:
            raise ConfigError("expected a place for the model, found none. Give --out, or set AIP_MODEL_DIR.")
        run(Job(**places, overrides=tuple(overrides or ()), folder=folder or _new_folder()), read_cluster(os.environ))
    except MlopsError as error:
        report(error)


if __name__ == "__main__":
    typer.run(main)
