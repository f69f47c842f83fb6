"""Runs the entry point of the training container with an emulated bucket for data and model."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.mlops import ROOT
from src.mlops.errors import ConfigError, DataError, StorageError, TrainingError
from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile.metadata import ModelInfo
from src.mlops.training.job import SUMS, Cluster, Job, fetch, read_cluster, read_environment, run
from tests.helpers.images import make_image
from tests.helpers.storage_emulator import BUCKET, Cloud
from tests.helpers.tiny import tiny_overrides, write_collected, zipped

Run = Callable[..., subprocess.CompletedProcess[str]]


def overrides(tmp_path: Path) -> list[str]:
    kept = [word for word in tiny_overrides(tmp_path, tmp_path) if not word.startswith(("run_dir", "data.raw_dir"))]
    return [*kept, "training.export=true"]


def command(tmp_path: Path, *arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "src.mlops.train_job",
        "--folder",
        str(tmp_path / "job"),
        *arguments,
        *overrides(tmp_path),
    ]


def environment(cloud: Cloud | None = None, **more: str) -> dict[str, str]:
    own = {"STORAGE_EMULATOR_HOST": cloud.url} if cloud else {}
    return {**os.environ, **own, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false", **more}


@pytest.mark.slow
def test_from_bucket_to_bucket(cloud: Cloud, raw_dir: Path, tmp_path: Path) -> None:
    cloud.put("raw/gtsrb.zip", zipped(raw_dir))
    cloud.put("jobs/1/collected.zip", zipped(write_collected(tmp_path / "collected", ["0", "1"])))
    cloud.put(f"jobs/1/model/{SUMS}", b"of an earlier attempt")
    cloud.fail("503", method="GET", part="gtsrb.zip", times=1)  # temporary failures are retried
    job = Job(
        out=f"gs://{BUCKET}/jobs/1/model",
        data=f"gs://{BUCKET}/raw/gtsrb.zip",
        collected=f"gs://{BUCKET}/jobs/1/collected.zip",
        checkpoints=f"gs://{BUCKET}/jobs/1/checkpoints",
        overrides=("data=synthetic", *overrides(tmp_path)),  # --data has priority over data=synthetic
        folder=tmp_path / "job",
    )
    run(job, Cluster(), mirror_seconds=0.2)
    made = {name.removeprefix("jobs/1/"): content for name, content in cloud.objects("jobs/1").items()}
    assert {"model/best_model.onnx", "model/best_model.pth", "model/metrics.csv", "model/config.json"} <= set(made)
    for line in made[f"model/{SUMS}"].decode().splitlines():
        digest, name = line.split()
        assert hashlib.sha256(made[f"model/{name}"]).hexdigest() == digest
    config = json.loads(made["model/config.json"])
    assert (config["model"]["width"], config["data"]["source"]) == (4, "local")
    (tmp_path / "there.onnx").write_bytes(made["model/best_model.onnx"])
    classifier = Classifier.load(tmp_path / "there.onnx")
    info: ModelInfo = classifier.info
    assert info.config["training"]["epochs"] == 2
    assert info.provenance["collected_fingerprint"]
    assert 0 <= classifier.classify([make_image(1)])[0].predicted_class <= 42
    assert made["checkpoints/last.pth"] == (tmp_path / "job/run/last.pth").read_bytes()


@pytest.mark.slow
def test_a_second_attempt_resumes_the_first_one(cloud: Cloud, raw_dir: Path, tmp_path: Path) -> None:
    places = {"out": f"gs://{BUCKET}/m", "data": str(raw_dir), "checkpoints": f"gs://{BUCKET}/c"}
    short = Job(**places, overrides=tuple(overrides(tmp_path)), folder=tmp_path / "one")  # type: ignore[arg-type]
    run(short, Cluster())
    first = cloud.objects("c")["c/metrics.csv"].decode().splitlines()
    # A new folder stands for another machine, without files of the first attempt.
    longer = Job(**places, overrides=(*overrides(tmp_path),), folder=tmp_path / "two")  # type: ignore[arg-type]
    run(longer, Cluster())
    second = cloud.objects("c")["c/metrics.csv"].decode().splitlines()
    assert second == first  # both epochs were complete, so nothing is trained again
    assert (tmp_path / "two/run/last.pth").is_file()


@pytest.mark.slow
def test_a_mounted_folder_and_the_command_line(raw_dir: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        command(tmp_path, "--out", str(tmp_path / "out"), "--data", str(raw_dir)),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert {"best_model.onnx", "best_model.pth", SUMS} <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.slow
def test_a_failed_training_leaves_no_complete_model(cloud: Cloud, raw_dir: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        command(tmp_path, "--data", str(raw_dir), "training.optimizer.lr=1e30"),
        cwd=ROOT,
        env=environment(cloud, AIP_MODEL_DIR=f"gs://{BUCKET}/bad"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    assert "exit code 1" in result.stderr
    assert list(cloud.objects("bad")) == ["bad/config.json"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_terminated_job_keeps_its_state(cloud: Cloud, raw_dir: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        command(tmp_path, "--data", str(raw_dir), "training.epochs=100000"),
        cwd=ROOT,
        env=environment(cloud, AIP_MODEL_DIR=f"gs://{BUCKET}/t/model", AIP_CHECKPOINT_DIR=f"gs://{BUCKET}/t/c"),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if line.lower().startswith("epoch 1/") and "val accuracy" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert "exit code" in process.stderr.read()
    assert process.returncode == 1
    assert {"t/c/last.pth", "t/c/best_model.pth"} <= set(cloud.objects("t"))
    assert f"t/model/{SUMS}" not in cloud.objects("t")


def instead_of_python(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Makes the job run a shell script instead of a Python process for the training."""
    program = folder / "python.sh"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_collected_images_are_fetched_for_the_training(
    cloud: Cloud, raw_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.put("jobs/1/collected.zip", zipped(raw_dir))
    url, given = f"gs://{BUCKET}/jobs/1/collected.zip", tmp_path / "given"
    instead_of_python(monkeypatch, tmp_path, f'echo "$@" > {given}; exit 1')
    job = Job(str(tmp_path / "out"), tmp_path / "job", str(raw_dir), url, overrides=tuple(overrides(tmp_path)))
    with pytest.raises(TrainingError):
        run(job, Cluster())
    folder = tmp_path / "job/collected/images"
    assert f"data.collected='{folder}'" in given.read_text()
    names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert names == {path.relative_to(raw_dir) for path in raw_dir.rglob("*") if path.is_file()}
    with pytest.raises(StorageError, match=r"none\.zip"):
        run(replace(job, collected=f"gs://{BUCKET}/none.zip"), Cluster())


@pytest.fixture
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda _: None))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.parametrize("again_with", ["folder", "checkpoints"])
def test_a_finished_training_is_not_lost_if_its_upload_fails(
    raw_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again_with: str
) -> None:
    python, out = sys.executable, tmp_path / "out"
    job = Job(
        out=str(out),
        folder=tmp_path / "job",
        data=str(raw_dir),
        checkpoints=str(tmp_path / "checkpoints") if again_with == "checkpoints" else None,
        overrides=(*overrides(tmp_path), "training.final_fit=true"),
    )
    with monkeypatch.context() as patch:
        instead_of_python(patch, tmp_path, f'{python} "$@" && rm -r {out} && touch {out}')
        with pytest.raises(TrainingError, match=r"finished.*best_model\.pth.*run.*without training.*--folder") as error:
            run(job, Cluster())
    assert str(job.folder) in str(error.value)
    out.unlink()
    if again_with == "checkpoints":  # another machine
        job = replace(job, folder=tmp_path / "job2")
    (tmp_path / "latest/best_model.pth").unlink()
    run(job, Cluster())
    assert {"best_model.onnx", "best_model.pth", SUMS} <= {path.name for path in out.iterdir()}
    epochs = (job.folder / "run/train.log").read_text().count(" Epoch ")
    assert epochs == (4 if again_with == "folder" else 0)  # those of the first attempt


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
@pytest.mark.usefixtures("_no_waiting")
class TestOutcome:
    """A shell script replaces the training."""

    def test_the_model_is_uploaded_although_the_last_checkpoint_is_not(
        self, raw_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "latest").mkdir()
        (tmp_path / "checkpoints").touch()  # a file in place of the folder
        model, state = tmp_path / "latest/best_model.pth", tmp_path / "job/run/last.pth"
        instead_of_python(monkeypatch, tmp_path, f"echo model > {model}; mkdir -p {state.parent}; echo x > {state}")
        places = {"out": str(tmp_path / "out"), "data": str(raw_dir), "checkpoints": str(tmp_path / "checkpoints")}
        run(Job(**places, folder=tmp_path / "job", overrides=tuple(overrides(tmp_path))), Cluster())  # type: ignore[arg-type]
        assert (tmp_path / "out/best_model.pth").read_text() == "model\n"
        assert "Cannot upload the last checkpoint" in caplog.text

    def test_a_failed_training_is_reported_although_the_last_checkpoint_cannot_be_uploaded(
        self, raw_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "checkpoints").touch()
        state = tmp_path / "job/run/last.pth"
        instead_of_python(monkeypatch, tmp_path, f"mkdir -p {state.parent}; echo x > {state}; exit 3")
        places = {"out": str(tmp_path / "out"), "data": str(raw_dir), "checkpoints": str(tmp_path / "checkpoints")}
        with pytest.raises(TrainingError, match="exit code 3"):
            run(Job(**places, folder=tmp_path / "job", overrides=tuple(overrides(tmp_path))), Cluster())  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("override", "key"),
        [
            ("tracking=wandb", "key of projects/p/secrets/s"),
            ("tracking.backend=wandb", "key of projects/p/secrets/s"),
            ("tracking=csv", ""),
        ],
    )
    def test_the_training_gets_the_key_of_wandb(
        self, raw_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, key: str
    ) -> None:
        monkeypatch.setenv("WANDB_SECRET", "projects/p/secrets/s")
        monkeypatch.setattr("src.mlops.training.job.read_secret", lambda name: f"key of {name}")
        instead_of_python(monkeypatch, tmp_path, f'printf %s "$WANDB_API_KEY$WANDB_SECRET" > {tmp_path}/key')
        job = Job(str(tmp_path / "out"), tmp_path / "job", str(raw_dir), overrides=(*overrides(tmp_path), override))
        run(job, Cluster())
        assert (tmp_path / "key").read_text() == key


def test_an_unwritable_destination_is_reported_before_training(raw_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=re.escape(str(tmp_path / "file"))):
        run(Job(out=str(tmp_path / "file" / "below"), data=str(raw_dir), folder=tmp_path / "job"), Cluster())
    assert not (tmp_path / "job").exists()


def test_invalid_data(cloud: Cloud, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"raw images.*gs://.*/none"):
        fetch(f"gs://{BUCKET}/none", tmp_path)
    cloud.put("x/broken.zip", b"no archive")
    with pytest.raises(DataError, match=r"broken\.zip"):
        fetch(f"gs://{BUCKET}/x/broken.zip", tmp_path)


@pytest.mark.parametrize("name", ["absolute", "relative", "~"])
def test_data_on_this_machine(raw_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HOME" if os.name == "posix" else "USERPROFILE", str(tmp_path))
    start = {"absolute": str(tmp_path), "relative": os.path.relpath(tmp_path, ROOT), "~": "~"}[name]
    assert fetch(f"{start}/raw", tmp_path / "got").resolve() == raw_dir.resolve()
    (tmp_path / "raw.zip").write_bytes(zipped(raw_dir))
    got = fetch(f"{start}/raw.zip", tmp_path / "got")
    assert (got / "Train.csv").read_bytes() == (raw_dir / "Train.csv").read_bytes()
    with pytest.raises(StorageError, match=r"none\.zip does not exist"):
        fetch(f"{start}/none.zip", tmp_path / "got")


def test_a_folder_of_a_bucket(cloud: Cloud, raw_dir: Path, tmp_path: Path) -> None:
    for path in [raw_dir / "Train.csv", *sorted(raw_dir.rglob("*.png"))[:5]]:
        cloud.put(f"folder/{path.relative_to(raw_dir).as_posix()}", path.read_bytes())
    got = fetch(f"gs://{BUCKET}/folder", tmp_path / "got")
    assert (got / "Train.csv").read_bytes() == (raw_dir / "Train.csv").read_bytes()
    assert len(list(got.rglob("*.png"))) == 5


def test_the_machines_of_a_cluster() -> None:
    spec = {
        "cluster": {"workerpool0": ["first:2222"], "workerpool1": ["second:2222", "third:2222"]},
        "task": {"type": "workerpool1", "index": 1},
    }
    assert read_cluster({"CLUSTER_SPEC": json.dumps(spec)}) == Cluster(3, 2, "first", 2222)
    assert read_cluster({}) == Cluster()
    for broken in ("{", "[]", '{"cluster": {}, "task": {"type": "workerpool0", "index": 0}}'):
        with pytest.raises(ConfigError, match="CLUSTER_SPEC"):
            read_cluster({"CLUSTER_SPEC": broken})


def test_vertex_variables() -> None:
    found = read_environment({"AIP_MODEL_DIR": "gs://b/m/", "AIP_CHECKPOINT_DIR": "gs://b/c/", "AIP_DATA_FORMAT": ""})
    assert found == {"out": "gs://b/m/", "checkpoints": "gs://b/c/", "data": None}
    with pytest.raises(ConfigError, match="AIP_DATA_FORMAT=bigquery"):
        read_environment({"AIP_DATA_FORMAT": "bigquery"})


def test_a_job_needs_a_destination_for_the_model(tmp_path: Path) -> None:
    result = subprocess.run(
        command(tmp_path), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert all(part in result.stderr for part in ("error: ", "--out", "AIP_MODEL_DIR"))
