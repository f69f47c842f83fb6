"""Tests what the service records about requests."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from src.mlops import ROOT
from src.mlops.inference.classifier import Classifier
from src.mlops.monitoring.read import read_records
from src.mlops.monitoring.schema import FIELDS
from src.mlops.serving.app import create_app
from src.mlops.serving.settings import Settings
from tests.helpers.images import encode, make_image
from tests.helpers.service import PNG, post, sample

JPEG = encode(make_image(2, side=300).resize((300, 200)), "JPEG", quality=83)  # decoded in a thread


def recording(model: Path, folder: Path, **options: Any) -> TestClient:
    return TestClient(create_app(Settings(model=str(model), log_url=str(folder), **options)))


def test_a_record_has_the_answer_and_the_facts_of_the_image(checkpoint: Path, tmp_path: Path) -> None:
    written = sample("mlops_log_records_total", outcome="written")
    with recording(checkpoint, tmp_path) as client:
        sent = [("files", ("a.png", PNG)), ("files", ("b.jpg", JPEG)), ("files", ("c.txt", b"no image"))]
        answers = client.post("/cv_model/batch", files=sent, headers={"X-Request-ID": "id-1"}).json()["results"]
        client.post("/cv_model/explain", files={"file": ("a.png", PNG)})
        own_id = post(client, PNG).headers["x-request-id"]
    records = list(read_records(str(tmp_path)))
    assert sorted(record["request_id"] for record in records) == sorted(["id-1", "id-1", own_id])
    both = sorted((record for record in records if record["request_id"] == "id-1"), key=lambda one: one["width"])
    for record, answer in zip(both, answers, strict=False):
        for name in ("predicted_class", "class_name", "prediction_set", "is_unknown", "model_version"):
            assert record[name] == answer[name]
        assert record["probability"] == pytest.approx(answer["probability"], abs=1e-6)
        assert 0 < record["latency_ms"] < 60_000
    facts = [(record["width"], record["height"], record["jpeg_quality"]) for record in both]
    assert facts == [(30, 30, None), (300, 200, 83)]
    classifier = Classifier.load(checkpoint)
    assert {record["class_list"] for record in records} == {classifier.info.classes.fingerprint}
    assert sample("mlops_log_records_total", outcome="written") == written + 3


# A hook for audit events cannot be removed, so it lives in a process of its own.
OBSERVED = """
import os, sys, threading
from fastapi.testclient import TestClient
from src.mlops.serving.app import create_app
from src.mlops.serving.settings import Settings
from tests.unit.serving.test_recording import JPEG, PNG

opened, is_observed = [], threading.Event()

def observe(event, arguments):
    if is_observed.is_set() and event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        opened.append(str(arguments[0]))

sys.addaudithook(observe)
with TestClient(create_app(Settings(model=sys.argv[1]))) as client:
    is_observed.set()
    assert client.post("/cv_model/", files={"file": ("a.png", PNG)}).status_code == 200
    assert client.post("/cv_model/batch", files=[("files", ("b.jpg", JPEG))]).status_code == 200
    assert client.get("/model").json()["recorded"] == {"fields": [], "image_share": 0.0, "image_days": 0}
    assert client.get("/model").json()["shadow"] is None
    assert not [line for line in client.get("/metrics").text.splitlines() if line.startswith("mlops_shadow")]
    own = ("prediction-log", "shadow")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(own)]
    if len(sys.argv) > 2:
        open(sys.argv[2], "w").close()
    is_observed.clear()
assert opened == sys.argv[2:], opened
"""


def test_by_default_nothing_is_stored(exported: Path, tmp_path: Path) -> None:
    for written in ([], [str(tmp_path / "seen")]):  # the second shows that a file would be seen
        command = [sys.executable, "-c", OBSERVED, str(exported), *written]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr


def test_without_images_only_records_are_stored(checkpoint: Path, tmp_path: Path) -> None:
    with recording(checkpoint, tmp_path) as client:
        post(client, PNG)
        assert client.get("/model").json()["recorded"] == {"fields": list(FIELDS), "image_share": 0.0, "image_days": 0}
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".gz"]


def test_images_are_stored_if_they_are_switched_on(checkpoint: Path, tmp_path: Path) -> None:
    with recording(checkpoint, tmp_path, log_images=1, log_image_days=7) as client:
        post(client, PNG)
        recorded = client.get("/model").json()["recorded"]
    assert (recorded["image_share"], recorded["image_days"]) == (1, 7)
    [record] = read_records(str(tmp_path))
    assert (tmp_path / record["image"]).is_file()


def test_a_log_that_cannot_be_written_changes_no_answer(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    dropped = sample("mlops_log_records_total", outcome="dropped_disk")
    with recording(checkpoint, tmp_path / "file") as client:
        assert post(client, PNG).status_code == 200
        assert client.get("/health/ready").status_code == 200
    assert sample("mlops_log_records_total", outcome="dropped_disk") == dropped + 1


def test_a_defect_of_the_log_changes_no_answer(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.mlops.monitoring.record.Batch.nbytes", property(lambda _: 1 / 0))
    monkeypatch.setattr("src.mlops.monitoring.writer.json_lines", lambda *_: 1 / 0)
    with recording(checkpoint, tmp_path) as client:
        assert post(client, PNG).status_code == 200


def test_metrics_start_at_zero(checkpoint: Path, tmp_path: Path) -> None:
    with recording(checkpoint, tmp_path) as client:
        text = client.get("/metrics").text
    for outcome in ("written", "dropped_queue_full", "dropped_disk", "dropped_spool_full", "dropped_shutdown"):
        assert f'mlops_log_records_total{{outcome="{outcome}"}}' in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_url": "s3://bucket"}, "gs://bucket/folder"),
        ({"log_url": "gs://"}, "gs://bucket/folder"),
        ({"log_images": 0.5}, "log_url"),
        ({"log_url": "x", "log_images": 1.5}, "less than or equal to 1"),
        ({"log_url": "x", "log_flush_seconds": 0}, "greater than or equal to 0.1"),
    ],
)
def test_invalid_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(**options)


def test_the_log_needs_neither_pandas_nor_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('pandas', 'pyarrow', 'torch', 'scipy', 'sklearn', 'hydra'): sys.modules[name] = None\n"
        "import src.mlops.api, src.mlops.monitoring.erase, src.mlops.monitoring.read\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
