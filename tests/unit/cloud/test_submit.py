"""Training on Vertex AI: never two paid jobs for one request, whatever is lost, killed or done at the same time."""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from src.mlops import ROOT
from src.mlops.cloud import gcloud as gcloud_module
from src.mlops.cloud import submit as submit_module
from src.mlops.cloud.names import Names
from src.mlops.cloud.submit import fetch_model, job_file, train
from src.mlops.config import CloudConfig
from src.mlops.errors import CheckpointError, CloudError, ConfigError, StorageError
from src.mlops.io.storage import open_storage
from tests.helpers.gcloud_record import Double
from tests.helpers.storage_emulator import Cloud
from tests.helpers.tiny import quick_config

REQUEST = "jobs/gtsrb-run-7/request.json"
NAMED = "train.job=run-7"
OWN = "gs://my-project-gtsrb/gtsrb/raw/x.zip"
START = "train.action=start"


@cache
def settings(*overrides: str) -> CloudConfig:
    return quick_config([f"cloud.{override}" for override in ("tag=abc", *overrides)]).cloud


@pytest.fixture(autouse=True)
def _project(ready: Double) -> None:
    """Bootstraps the project and builds the container images."""


@pytest.fixture(autouse=True)
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns the URLs of the models that were fetched. Nothing is transferred, and nobody waits."""
    urls: list[str] = []
    monkeypatch.setattr(submit_module, "fetch_model", lambda url, _: urls.append(url))
    monkeypatch.setattr(submit_module, "POLL_SECONDS", 0)
    return urls


def creations(gcloud: Double) -> int:
    return sum("custom-jobs create" in call for call in gcloud.calls())


@pytest.fixture
def meanwhile(gcloud: Double, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], None]:
    """Returns a function that does something once, immediately before a command of gcloud runs."""

    def prepare(part: str, work: Callable[[], object]) -> None:
        run, todo = gcloud_module.subprocess.run, [work]

        def wrapped(command: list[str], **options: Any) -> Any:
            if part in " ".join(command) and todo:
                todo.pop()()
            return run(command, **options)

        monkeypatch.setattr(gcloud_module, "subprocess", SimpleNamespace(run=wrapped, PIPE=-1))

    return prepare


class TestOneJob:
    def test_waits_and_fetches(self, gcloud: Double, cloud: Cloud, tmp_path: Path, fetched: list[str]) -> None:
        gcloud.script({"match": "custom-jobs describe", "stdout": "JOB_STATE_RUNNING\t\n", "code": 0, "times": 3})
        train(settings(), tmp_path)
        assert sum("custom-jobs describe 77" in call for call in gcloud.calls()) == 4
        assert fetched[0].startswith("gs://my-project-gtsrb/jobs/gtsrb-")

    def test_names_differ_in_the_same_second(self, gcloud: Double, cloud: Cloud, tmp_path: Path) -> None:
        train(settings(START), tmp_path)
        train(settings(START), tmp_path)
        assert len({job["displayName"] for job in gcloud.jobs()}) == 2

    def test_the_model_of_a_successful_job_is_fetched_without_a_new_job(
        self, gcloud: Double, cloud: Cloud, tmp_path: Path, fetched: list[str]
    ) -> None:
        train(settings(NAMED), tmp_path)
        assert any("custom-jobs create" in call and "--display-name=gtsrb-run-7" in call for call in gcloud.calls())
        gcloud.forget()
        cloud.put("jobs/gtsrb-run-7/model/SHA256SUMS", b"complete")
        train(settings(NAMED), tmp_path)
        train(settings(NAMED, START), tmp_path)
        train(settings(NAMED, "train.action=fetch"), tmp_path)
        assert gcloud.calls() == []
        assert fetched == ["gs://my-project-gtsrb/jobs/gtsrb-run-7/model"] * 3

    @pytest.mark.parametrize("stderr", ["ERROR: HTTPError 503: The service is unavailable", "ERROR: UNAVAILABLE"])
    def test_a_lost_response_starts_no_second_job(
        self, gcloud: Double, cloud: Cloud, tmp_path: Path, stderr: str
    ) -> None:
        gcloud.script({"match": "custom-jobs create", "stderr": stderr, "acts": True})
        train(settings(NAMED, START), tmp_path)
        assert creations(gcloud) == 1
        assert len(gcloud.jobs()) == 1

    def test_an_unknown_error_after_a_start_starts_no_second_job(
        self, gcloud: Double, cloud: Cloud, tmp_path: Path
    ) -> None:
        gcloud.script({"match": "custom-jobs create", "stderr": "ERROR: gcloud crashed (ReadTimeout)", "acts": True})
        train(settings(NAMED), tmp_path)
        assert len(gcloud.jobs()) == 1

    def test_a_temporary_failure_is_retried(self, gcloud: Double, cloud: Cloud, tmp_path: Path) -> None:
        gcloud.fails("custom-jobs create", "ERROR: UNAVAILABLE", times=2)
        train(settings(NAMED, START), tmp_path)
        assert creations(gcloud) == 3
        assert len(gcloud.jobs()) == 1

    def test_the_second_job_that_a_retry_of_gcloud_itself_started_is_cancelled(
        self,
        gcloud: Double,
        cloud: Cloud,
        tmp_path: Path,
        meanwhile: Callable[[str, Callable[[], object]], None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        gcloud.set_state(job_state="JOB_STATE_RUNNING")
        job = {"name": "projects/1/x/customJobs/70", "displayName": "gtsrb-run-7", "state": "JOB_STATE_RUNNING"}
        meanwhile("custom-jobs create", lambda: gcloud.set_state(jobs=[job]))
        train(settings(NAMED, START), tmp_path)
        assert [job["state"] for job in gcloud.jobs()] == ["JOB_STATE_RUNNING", "JOB_STATE_CANCELLED"]
        assert "only 70 is kept" in caplog.text

    def test_a_running_job_is_waited_for(
        self, gcloud: Double, cloud: Cloud, tmp_path: Path, fetched: list[str]
    ) -> None:
        gcloud.set_state(job_state="JOB_STATE_RUNNING")
        train(settings(NAMED, START), tmp_path)
        assert fetched == []
        gcloud.script({"match": "custom-jobs describe", "stdout": "JOB_STATE_SUCCEEDED\t\n", "code": 0})
        train(settings(NAMED), tmp_path)
        assert len(gcloud.jobs()) == 1
        assert fetched == ["gs://my-project-gtsrb/jobs/gtsrb-run-7/model"]

    @pytest.mark.parametrize("finished", [False, True])
    def test_a_job_that_was_waited_for_can_be_left_to_collect(
        self, gcloud: Double, cloud: Cloud, tmp_path: Path, finished: bool
    ) -> None:
        train(settings(NAMED), tmp_path)
        if finished:
            cloud.put("jobs/gtsrb-run-7/model/SHA256SUMS", b"complete")
        else:
            gcloud.set_state(jobs=[{**gcloud.jobs()[0], "state": "JOB_STATE_RUNNING"}])
        assert json.loads(cloud.objects()[REQUEST])["register"] is False
        train(settings(NAMED, START), tmp_path)
        assert json.loads(cloud.objects()[REQUEST])["register"] is True
        assert creations(gcloud) == 1

    def test_a_job_with_another_name_is_not_taken_for_it(self, gcloud: Double, cloud: Cloud, tmp_path: Path) -> None:
        job = {"name": "projects/1/x/customJobs/70", "displayName": "GTSRB-run-7", "state": "JOB_STATE_RUNNING"}
        gcloud.set_state(jobs=[job])
        train(settings(NAMED, START), tmp_path)
        assert len(gcloud.jobs()) == 2

    def test_a_failed_job_is_started_again(self, gcloud: Double, cloud: Cloud, tmp_path: Path) -> None:
        gcloud.set_state(job_state="JOB_STATE_FAILED")
        with pytest.raises(CloudError, match="JOB_STATE_FAILED"):
            train(settings(NAMED), tmp_path)
        gcloud.set_state(job_state="JOB_STATE_SUCCEEDED")
        train(settings(NAMED), tmp_path)
        assert [job["state"] for job in gcloud.jobs()] == ["JOB_STATE_FAILED", "JOB_STATE_SUCCEEDED"]
        assert json.loads(cloud.objects()[REQUEST])["earlier"] == [gcloud.jobs()[0]["name"]]


class TestNames:
    def test_a_name_that_is_taken_is_refused_before_a_job_is_paid(
        self, gcloud: Double, cloud: Cloud, tmp_path: Path
    ) -> None:
        train(settings(NAMED, START), tmp_path)
        gcloud.forget()
        for other in ("train.options=[data=gcs]", "tag=def", f"train.data={OWN}"):
            with pytest.raises(CloudError, match=r"gtsrb-run-7 is taken .*cloud\.train\.job"):
                train(settings(NAMED, START, other), tmp_path)
        assert creations(gcloud) == 0

    def test_another_machine_may_be_used_after_a_failure(self, gcloud: Double, cloud: Cloud, tmp_path: Path) -> None:
        gcloud.fails("custom-jobs create", "ERROR: RESOURCE_EXHAUSTED: custom_model_training_nvidia_l4_gpus")
        with pytest.raises(CloudError, match=r"'start the training job'.*RESOURCE_EXHAUSTED.*quota"):
            train(settings(NAMED), tmp_path)
        train(settings(NAMED, "train.accelerator=null"), tmp_path)  # at once
        assert len(gcloud.jobs()) == 1

    def test_two_commands_at_the_same_time_start_one_job(
        self, gcloud: Double, cloud: Cloud, tmp_path: Path, meanwhile: Callable[[str, Callable[[], object]], None]
    ) -> None:
        refused: list[str] = []

        def second() -> None:
            try:
                train(settings(NAMED, START), tmp_path)
            except CloudError as error:
                refused.append(str(error))

        meanwhile("custom-jobs create", second)
        train(settings(NAMED, START), tmp_path)
        assert len(gcloud.jobs()) == 1
        assert "Another process is starting the job gtsrb-run-7 since " in refused[0]

    def test_a_start_that_was_killed_counts_for_ten_minutes(
        self, gcloud: Double, cloud: Cloud, tmp_path: Path, meanwhile: Callable[[str, Callable[[], object]], None]
    ) -> None:
        def killed() -> None:
            raise KeyboardInterrupt

        meanwhile("custom-jobs create", killed)
        with pytest.raises(KeyboardInterrupt):
            train(settings(NAMED, START), tmp_path)
        with pytest.raises(CloudError, match="10 minutes"):
            train(settings(NAMED, START), tmp_path)
        request = json.loads(cloud.objects()[REQUEST])
        cloud.put(REQUEST, json.dumps({**request, "started": "2026-01-01T00:00:00+00:00"}).encode())
        train(settings(NAMED, START), tmp_path)
        assert len(gcloud.jobs()) == 1

    def test_a_process_that_slept_through_its_reservation_starts_no_job(
        self, gcloud: Double, cloud: Cloud, tmp_path: Path, meanwhile: Callable[[str, Callable[[], object]], None]
    ) -> None:
        def taken_over() -> None:
            request = json.loads(cloud.objects()[REQUEST])
            cloud.put(REQUEST, json.dumps({**request, "id": "of another process"}).encode())

        gcloud.fails("custom-jobs create", "ERROR: UNAVAILABLE")
        meanwhile("custom-jobs create", taken_over)
        with pytest.raises(CloudError, match="Another process is starting the job gtsrb-run-7 at the same time"):
            train(settings(NAMED, START), tmp_path)
        assert gcloud.jobs() == []
        assert json.loads(cloud.objects()[REQUEST])["id"] == "of another process"

    @pytest.mark.parametrize("content", ["{", "[]", "{}", '{"settings": 1, "earlier": 2}', '{"earlier": [], "x": 1}'])
    def test_a_corrupted_reservation(self, gcloud: Double, cloud: Cloud, tmp_path: Path, content: str) -> None:
        cloud.put(REQUEST, content.encode())
        with pytest.raises(CloudError, match=r"gtsrb-run-7/request\.json is corrupted"):
            train(settings(NAMED), tmp_path)
        assert creations(gcloud) == 0

    def test_the_bucket_cannot_be_written(self, gcloud: Double, cloud: Cloud, tmp_path: Path) -> None:
        cloud.fail("503", method="POST", part="upload")
        with pytest.raises(StorageError):
            train(settings(NAMED), tmp_path)
        assert creations(gcloud) == 0

    def test_an_answer_of_gcloud_that_cannot_be_read(self, gcloud: Double, cloud: Cloud, tmp_path: Path) -> None:
        gcloud.script({"match": "custom-jobs list", "stdout": "no JSON", "code": 0})
        with pytest.raises(CloudError, match=r"'no JSON'.*gcloud components update"):
            train(settings(NAMED), tmp_path)
        assert creations(gcloud) == 0


class TestFetch:
    @pytest.mark.parametrize(
        ("state", "message"),
        [
            (None, "There is no job gtsrb-run-7"),
            ("JOB_STATE_RUNNING", "no model yet: its state is JOB_STATE_RUNNING"),
            ("JOB_STATE_FAILED", "gtsrb-run-7 ended in the state JOB_STATE_FAILED"),
        ],
    )
    def test_a_job_without_a_model(
        self, gcloud: Double, cloud: Cloud, tmp_path: Path, state: str | None, message: str
    ) -> None:
        if state:
            gcloud.set_state(job_state=state)
            train(settings(NAMED, START), tmp_path)
        gcloud.forget() if state else None
        with pytest.raises(CloudError, match=message):
            train(settings(NAMED, "train.action=fetch"), tmp_path)
        assert creations(gcloud) == 0

    def test_needs_a_name(self, gcloud: Double, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"cloud\.train\.job"):
            train(settings("train.action=fetch"), tmp_path)

    def test_a_failed_job(self, gcloud: Double, cloud: Cloud, tmp_path: Path) -> None:
        out = "JOB_STATE_FAILED\tThe replica exited with a non-zero status of 1.\n"
        gcloud.script({"match": "custom-jobs describe", "stdout": out, "code": 0})
        page = "https://console.cloud.google.com/ai/platform/locations/europe-west4/training/77?project=my-project"
        with pytest.raises(CloudError, match=r"'train'.*JOB_STATE_FAILED.*The replica .*stream-logs 77") as caught:
            train(settings(), tmp_path)
        assert page in str(caught.value)

    def test_no_image(self, gcloud: Double, cloud: Cloud, tmp_path: Path) -> None:
        gcloud.fails("images describe", "ERROR: Image not found.")
        with pytest.raises(CloudError, match=r"/train:abc.*inv gcp\.build"):
            train(settings(NAMED), tmp_path)
        assert cloud.objects() == {}

    @pytest.mark.parametrize("sums", [f"{'0' * 64}  ../escaped", f"{'0' * 64}  a/b", "0", "\xff", f"{'0' * 64}  .."])
    def test_hostile_checksums(self, tmp_path: Path, sums: str) -> None:
        source = open_storage(str(tmp_path / "job"))
        source.write("SHA256SUMS", sums.encode("latin-1"))
        source.write("a/b", b"x")
        with pytest.raises(CheckpointError, match=r"job/SHA256SUMS is corrupted"):
            fetch_model(str(tmp_path / "job"), tmp_path / "latest")
        found = [path.name for folder in ("job", "latest") for path in (tmp_path / folder).rglob("*") if path.is_file()]
        assert found == ["SHA256SUMS", "b"]
        assert not (tmp_path / "escaped").exists()

    def test_an_incomplete_model_changes_nothing(self, tmp_path: Path) -> None:
        source = open_storage(str(tmp_path / "job"))
        source.write("best_model.onnx", b"new")
        (tmp_path / "latest").mkdir()
        (tmp_path / "latest/best_model.onnx").write_bytes(b"old")
        with pytest.raises(CheckpointError, match=r"job.*SHA256SUMS"):
            fetch_model(str(tmp_path / "job"), tmp_path / "latest")
        digest = "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"  # of b"new"
        source.write("SHA256SUMS", f"{digest}  best_model.onnx\n{'0' * 64}  best_model.pth\n".encode())
        source.write("best_model.pth", b"half")
        with pytest.raises(CheckpointError, match=r"best_model\.pth .*SHA-256 .*0000"):
            fetch_model(str(tmp_path / "job"), tmp_path / "latest")
        assert [path.read_bytes() for path in (tmp_path / "latest").iterdir()] == [b"old"]


class TestJob:
    def test_the_job(self) -> None:
        job = yaml.safe_load(job_file(Names(settings(f"train.data={OWN}")), "gs://b/jobs/1", "image").read_text())
        [pool] = job["workerPoolSpecs"]
        assert pool["machineSpec"] == {
            "machineType": "g2-standard-8",
            "acceleratorType": "NVIDIA_L4",
            "acceleratorCount": 1,
        }
        assert pool["containerSpec"]["args"] == ["--data", OWN, "data=synthetic"]
        assert job["scheduling"]["timeout"] == "21600s"
        assert "WANDB_API_KEY" not in str(job)

    def test_several_machines_and_no_gpu(self) -> None:
        names = Names(settings("train.replicas=3", "train.accelerator=null"))
        first, others = yaml.safe_load(job_file(names, "gs://b/jobs/1", "image").read_text())["workerPoolSpecs"]
        assert (first["replicaCount"], others["replicaCount"]) == (1, 2)
        assert first["machineSpec"] == {"machineType": "g2-standard-8"}


def test_the_documented_training_reads_the_data_that_workflows_measure() -> None:
    text = (ROOT / "docs/how-to/deploy.md").read_text()
    trainings = re.findall(r"^uv run inv gcp\.train .*", text, re.MULTILINE)
    assert len(trainings) == 3
    assert all(
        """'cloud.train.options=["data=gcs"]'""" in line and "cloud.train.data" not in line for line in trainings
    )
    measured = re.findall(r"inv (?:evaluate|model\.\w+)\b.*", (ROOT / ".github/workflows/rollout.yaml").read_text())
    assert measured
    assert all("-o data=gcs" in line for line in measured)


def test_a_description_is_never_half_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commands at the same time write the same file, because its name contains a hash of the content."""
    names, seen = Names(settings()), set()
    path = job_file(names, "gs://b/jobs/1", "image")
    replace = Path.replace

    def look(temporary: Path, target: Path) -> Path:
        seen.add(path.read_text())
        return replace(temporary, target)

    monkeypatch.setattr(Path, "replace", look)
    assert job_file(names, "gs://b/jobs/1", "image") == path
    assert seen == {path.read_text()}
