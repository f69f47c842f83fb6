"""Retraining in Google Cloud: never without enough new labels, never twice with the same, whatever is killed."""

import csv
import io
import json
import zipfile
from functools import cache
from pathlib import Path

import pytest

from src.mlops.cloud import retrain as retrain_module
from src.mlops.cloud import submit as submit_module
from src.mlops.cloud.retrain import ARCHIVE, retrain
from src.mlops.config import CloudConfig
from src.mlops.errors import CloudError, ConfigError, DataError, StorageError
from src.mlops.io.storage import open_storage
from src.mlops.monitoring.labels import Decision, Labels, Source, Subject
from tests.helpers.gcloud_record import Double
from tests.helpers.images import encode, make_image
from tests.helpers.recording import record_lines, store_segment
from tests.helpers.storage_emulator import BUCKET, Cloud
from tests.helpers.tiny import quick_config

LOG = f"gs://{BUCKET}/prediction_log"


@cache
def settings(*overrides: str) -> CloudConfig:
    own = (f"cloud.prediction_log={LOG}", "cloud.retrain.min_new=3", "cloud.retrain.window=all")
    return quick_config([*own, *(f"cloud.{override}" for override in overrides)]).cloud


@pytest.fixture(autouse=True)
def _project(ready: Double) -> None:
    """Bootstraps the project and builds the container images, one of them of a commit."""
    images = ready.state()["images"]
    base = "europe-west4-docker.pkg.dev/my-project/gtsrb/train"
    ready.set_state(images=images | {f"{base}:{'0' * 12}": "sha256:newest"}, job_state="JOB_STATE_RUNNING")
    ready.log_in("build")


@pytest.fixture
def log(cloud: Cloud) -> None:
    """Writes a log of eight requests, each with a stored image."""
    names = [f"request{number}" for number in range(8)]
    lines = []
    for name, line in zip(names, record_lines(*names), strict=True):
        from src.mlops.monitoring.images import image_ending

        image = f"images/date=2026-11-28/{name}{image_ending(name)}"
        cloud.put(f"prediction_log/{image}", encode(make_image(names.index(name)), "PNG"))
        lines.append(json.dumps(json.loads(line) | {"image": image}).encode())
    store_segment(LOG, "a", lines)


def label(*numbers: int, class_id: int = 14, source: Source = "review") -> None:
    for number in numbers:
        name = f"request{number}"
        subject = Subject(f"record-{name}", name, 0, "0123")
        Labels(open_storage(LOG)).add(subject, Decision("class", class_id, f"class {class_id}", source))


def handle(cloud: Cloud, name: str, **outcome: str) -> None:
    """Records what `collect` does about a job."""
    request = json.loads(cloud.objects()[f"jobs/{name}/request.json"])["id"]
    cloud.put(f"jobs/{name}/outcome.json", json.dumps({"request": request, **outcome}).encode())


def started(gcloud: Double) -> list[str]:
    return [job["displayName"] for job in gcloud.jobs()]


@pytest.mark.usefixtures("log")
class TestStart:
    def test_enough_labels_start_a_job_with_their_images(self, gcloud: Double, cloud: Cloud) -> None:
        label(0, 1, 2, 3)
        said = retrain(settings())
        [name] = started(gcloud)
        assert said == f"Started {name} with 4 labelled images, of which 4 are new."
        request = json.loads(cloud.objects()[f"jobs/{name}/request.json"])
        url = f"gs://{BUCKET}/jobs/{name}/{ARCHIVE}"
        base = "europe-west4-docker.pkg.dev/my-project/gtsrb/train"
        expected = {"image": f"{base}@sha256:newest", "data": None, "options": ["data=gcs"], "collected": url}
        assert (request["settings"], request["register"]) == (expected, True)
        with zipfile.ZipFile(io.BytesIO(cloud.objects()[f"jobs/{name}/{ARCHIVE}"])) as archive:
            table = archive.read("labels.csv")
            rows = list(csv.DictReader(table.decode().splitlines()))
            assert {row["path"] for row in rows} <= set(archive.namelist())
        assert [row["class_id"] for row in rows] == ["14"] * 4
        assert cloud.objects()[f"jobs/{name}/labels.csv"] == table

    def test_the_job_gets_the_images(self, gcloud: Double, cloud: Cloud) -> None:
        label(0, 1, 2)
        retrain(settings())
        [path] = [word for call in gcloud.arguments() for word in call if word.startswith("--config=")]
        text = Path(path.removeprefix("--config=")).read_text()
        assert f"- --collected\n    - gs://{BUCKET}/jobs/{started(gcloud)[0]}/{ARCHIVE}\n    - data=gcs" in text

    @pytest.mark.parametrize("labelled", [(), (0,), (0, 1)])
    def test_too_few_labels(self, gcloud: Double, cloud: Cloud, labelled: tuple[int, ...]) -> None:
        label(*labelled)
        said = retrain(settings())
        assert said.startswith("No retraining: ")
        assert said.endswith("at /review.")
        assert started(gcloud) == []
        assert cloud.objects("jobs") == {}

    def test_labels_that_cannot_be_used_do_not_count(self, gcloud: Double, cloud: Cloud) -> None:
        label(0, 1, 2, source="feedback")
        assert "3 are feedback that no reviewer has confirmed" in retrain(settings())
        assert started(gcloud) == []
        assert retrain(settings("retrain.only_reviewed=false")).startswith("Started")

    def test_the_same_labels_are_used_once(self, gcloud: Double, cloud: Cloud) -> None:
        label(0, 1, 2)
        retrain(settings())
        [name] = started(gcloud)
        handle(cloud, name, version="v2")
        for _ in range(2):
            assert "v2 was trained with the same labels" in retrain(settings())
        label(3, 4)
        assert "2 labelled images are new, and cloud.retrain.min_new is 3" in retrain(settings())
        label(0, class_id=13)  # a corrected label is new, too
        assert "with 5 labelled images, of which 3 are new" in retrain(settings())
        assert len(started(gcloud)) == 2

    def test_a_second_alert_while_a_retraining_runs(self, gcloud: Double, cloud: Cloud) -> None:
        label(0, 1, 2)
        retrain(settings())
        [name] = started(gcloud)
        assert retrain(settings()).startswith(f"No retraining: {name} was started")
        label(3, 4, 5, 6)
        assert retrain(settings()).startswith(f"No retraining: {name} was started")
        handle(cloud, name, version="v2")
        assert "with 7 labelled images, of which 4 are new" in retrain(settings())

    def test_a_failed_job_is_repeated_by_a_person_only(self, gcloud: Double, cloud: Cloud) -> None:
        label(0, 1, 2)
        gcloud.set_state(job_state="JOB_STATE_FAILED")
        retrain(settings())
        [name] = started(gcloud)
        handle(cloud, name, problem="It failed.")
        assert "0 labelled images are new" in retrain(settings())
        assert len(started(gcloud)) == 1
        gcloud.set_state(job_state="JOB_STATE_RUNNING")
        assert retrain(settings("retrain.min_new=0")).startswith(f"Started {name} ")
        assert started(gcloud) == [name, name]

    def test_a_failed_job_of_an_older_image_does_not_take_the_name(self, gcloud: Double, cloud: Cloud) -> None:
        label(0, 1, 2)
        retrain(settings("tag=def"))
        handle(cloud, started(gcloud)[0], problem="It failed.")
        assert retrain(settings("retrain.min_new=0")).startswith("Started")
        assert len(set(started(gcloud))) == 2


class TestDrift:
    @pytest.mark.usefixtures("log")
    @pytest.mark.parametrize(
        ("kinds", "starts"), [([], False), (["mix"], False), (["camera"], True), (["mix", "unknown"], True)]
    )
    def test_a_schedule_looks_at_the_last_report(
        self, gcloud: Double, cloud: Cloud, kinds: list[str], starts: bool
    ) -> None:
        label(0, 1, 2)
        report = {"drift": bool(kinds), "findings": [{"kind": kind} for kind in kinds]}
        cloud.put("prediction_log/reports/drift.json", json.dumps(report).encode())
        said = retrain(settings("retrain.only_after_drift=true"))
        assert said.startswith("Started") == starts
        assert starts or "found no drift" in said
        assert bool(started(gcloud)) == starts

    def test_no_report(self, cloud: Cloud) -> None:
        assert f"no drift report in {LOG}/reports yet" in retrain(settings("retrain.only_after_drift=true"))

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"findings": 1}', b'{"findings": [{}]}', b"\xff"])
    def test_a_corrupted_report(self, cloud: Cloud, content: bytes) -> None:
        cloud.put("prediction_log/reports/drift.json", content)
        with pytest.raises(CloudError, match=r"reports/drift\.json is corrupted.*inv gcp\.drift"):
            retrain(settings("retrain.only_after_drift=true"))


@pytest.mark.usefixtures("log")
class TestInterruptions:
    @pytest.mark.parametrize("more", [False, True])
    @pytest.mark.parametrize("step", ["export", "pack_folder", "_start"])
    def test_killed_before_a_step(
        self, gcloud: Double, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, step: str, more: bool
    ) -> None:
        def end(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        label(0, 1, 2)
        with monkeypatch.context() as patch:
            patch.setattr(retrain_module, step, end)
            with pytest.raises(KeyboardInterrupt):
                retrain(settings())
        assert started(gcloud) == []
        if more:
            label(3)
        assert retrain(settings()).endswith(f"of which {4 if more else 3} are new.")
        assert len(started(gcloud)) == 1

    def test_killed_while_the_job_is_started(
        self, gcloud: Double, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def end(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        label(0, 1, 2)
        with monkeypatch.context() as patch:
            patch.setattr("src.mlops.cloud.jobs._start_once", end)
            with pytest.raises(KeyboardInterrupt):
                retrain(settings())
        with pytest.raises(CloudError, match=r"Another process is starting the job .* 10 minutes"):
            retrain(settings())
        [name] = [name for name in cloud.objects("jobs") if name.endswith("request.json")]
        request = json.loads(cloud.objects()[name])
        cloud.put(name, json.dumps({**request, "started": "2026-01-01T00:00:00+00:00"}).encode())
        assert retrain(settings()).startswith("Started")
        assert len(started(gcloud)) == 1

    def test_the_bucket_cannot_be_written(self, gcloud: Double, cloud: Cloud) -> None:
        label(0, 1, 2)
        cloud.fail("503", method="POST", part="upload")
        with pytest.raises(StorageError):
            retrain(settings())
        assert started(gcloud) == []
        cloud.heal()
        assert retrain(settings()).startswith("Started")


class TestSettings:
    def test_without_a_log(self, gcloud: Double) -> None:
        with pytest.raises(CloudError, match=r"cloud\.prediction_log is null"):
            retrain(settings("prediction_log=null"))

    def test_an_invalid_window(self, cloud: Cloud) -> None:
        with pytest.raises(DataError, match="'tomorrow'"):
            retrain(settings("retrain.window=tomorrow"))

    @pytest.mark.parametrize("override", ["retrain.min_new=-1", "train.collected=gs://other/x.zip", "retrain.window="])
    def test_invalid_values(self, override: str) -> None:
        with pytest.raises(ConfigError, match=override.partition("=")[0]):
            settings(override)

    def test_a_dry_run(self, gcloud: Double, capsys: pytest.CaptureFixture[str]) -> None:
        assert "dry run" in retrain(settings("dry_run=true"))
        assert "gcloud ai custom-jobs create" in capsys.readouterr().out
        assert gcloud.jobs() == []


def test_the_same_settings_are_needed_for_the_same_name(gcloud: Double, cloud: Cloud, tmp_path: Path) -> None:
    """A job without collected images is not resumed with some, or the other way round."""
    gcloud.set_state(job_state="JOB_STATE_FAILED")
    given = [f"cloud.train.{each}" for each in ("job=one", "action=start")]
    url = f"cloud.train.collected=gs://{BUCKET}/jobs/gtsrb-one/{ARCHIVE}"
    for first, second in (([], [url]), ([url], [])):
        submit_module.train(quick_config(["cloud.tag=abc", *given, *first]).cloud, tmp_path)
        with pytest.raises(CloudError, match="gtsrb-one is taken by a job with other settings: collected "):
            submit_module.train(quick_config(["cloud.tag=abc", *given, *second]).cloud, tmp_path)
        cloud.empty()
        gcloud.set_state(jobs=[])
