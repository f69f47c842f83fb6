"""Tests the service under load and while its model changes."""

import asyncio
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from src.mlops import ROOT
from src.mlops.errors import CheckpointError, RegistryError
from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile.locate import BUNDLED
from src.mlops.serving.app import create_app
from src.mlops.serving.settings import Settings
from tests.helpers.graphs import with_an_endless_loop
from tests.helpers.images import encode, make_image
from tests.helpers.service import ADMIN, PNG, asking, assert_problem, other_model, post, sample


def test_the_model_watch_survives_unexpected_errors(
    swappable: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.mlops.serving.model_file.WATCH_SECONDS", 0.01)
    failed = threading.Event()

    def fails_once(*_: object) -> list[object]:
        monkeypatch.undo()
        monkeypatch.setattr("src.mlops.serving.model_file.WATCH_SECONDS", 0.01)
        failed.set()
        raise OSError("temporary disk error")

    with TestClient(create_app(Settings(model=str(swappable)))) as client:
        first = client.get("/health/ready").json()["model_version"]
        monkeypatch.setattr("src.mlops.serving.model_holder.stamps", fails_once)
        assert failed.wait(10)
        swappable.write_bytes(other_model(exported))
        while post(client, PNG).json()["model_version"] == first:
            pass


def test_a_full_queue_rejects_requests_with_503(checkpoint: Path) -> None:
    app = create_app(Settings(model=str(checkpoint), queue_size=4))
    large = encode(make_image(1, side=1200), "PNG")  # decoded in a thread, therefore all images wait at the same time

    async def ask() -> list[httpx.Response]:
        async with app.router.lifespan_context(app), asking(app) as client:
            asked = [client.post("/cv_model/", files={"file": ("a.png", large)}) for _ in range(12)]
            answers = await asyncio.gather(*asked)
            assert (await client.post("/cv_model/", files={"file": ("a.png", PNG)})).status_code == 200
            return answers

    answers = asyncio.run(ask())
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(refused) == 8
    assert {answer.status_code for answer in answers} == {200, 503}
    assert refused[0].headers["retry-after"] == "1"
    assert_problem(refused[0], 503, "4 images")


def test_waiting_images_form_batches(checkpoint: Path) -> None:
    app = create_app(Settings(model=str(checkpoint)))
    images = [encode(make_image(number), "PNG") for number in range(20)]

    async def ask() -> list[dict[str, object]]:
        async with app.router.lifespan_context(app), asking(app) as client:
            answers = await asyncio.gather(
                *(client.post("/cv_model/", content=one, headers={"Content-Type": "image/png"}) for one in images)
            )
            return [answer.json() for answer in answers]

    before = sample("mlops_batch_size_sum"), sample("mlops_batch_size_count")
    found = asyncio.run(ask())
    expected = Classifier.load(checkpoint).classify(images)
    assert [answer["predicted_class"] for answer in found] == [prediction.predicted_class for prediction in expected]
    ran, batches = sample("mlops_batch_size_sum") - before[0], sample("mlops_batch_size_count") - before[1]
    assert (ran, batches < 20) == (20, True)


def test_a_changed_model_file_is_loaded(swappable: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.mlops.serving.model_file.WATCH_SECONDS", 0.01)
    with TestClient(create_app(Settings(model=str(swappable)))) as client:
        first = client.get("/health/ready").json()["model_version"]
        refused = sample("mlops_reloads_total", outcome="refused")
        swappable.write_bytes(b"half a mod")
        while sample("mlops_reloads_total", outcome="refused") == refused:
            assert post(client, PNG).json()["model_version"] == first
        swappable.write_bytes(other_model(exported))
        while (version := post(client, PNG).json()["model_version"]) == first:
            pass
        assert client.get("/health/ready").json()["model_version"] == version


def test_no_request_fails_while_the_model_changes(swappable: Path, exported: Path) -> None:
    other = other_model(exported)
    settings = Settings(model=str(swappable), admin_token=SecretStr("secret"))
    with TestClient(create_app(settings)) as client, ThreadPoolExecutor(8) as pool:
        stop = threading.Event()

        def ask() -> list[tuple[int, str]]:
            found = []
            while not stop.is_set():
                answer = post(client, PNG)
                found.append((answer.status_code, answer.json().get("model_version")))
            return found

        asking = [pool.submit(ask) for _ in range(4)]
        versions = set()
        for content in [other, exported.read_bytes()] * 3:
            swappable.write_bytes(content)
            versions.add(client.post("/admin/reload", headers=ADMIN).json()["model_version"])
        stop.set()
        found = [pair for future in asking for pair in future.result()]
    assert {status for status, _ in found} == {200}
    assert {version for _, version in found} <= versions
    assert len(versions) == 2


def test_a_model_can_be_added_after_the_start(tmp_path: Path, exported: Path) -> None:
    path = tmp_path / "model.onnx"
    with TestClient(create_app(Settings(model=str(path), admin_token=SecretStr("secret")))) as client:
        assert client.get("/health/ready").status_code == 503
        shutil.copy(exported, path)
        assert client.post("/admin/reload", headers=ADMIN).status_code == 200
        assert post(client, PNG).status_code == 200


def trials() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "src.mlops.serving.trial" in child.cmdline():
                found.append(child)
    return found


def test_a_model_that_never_finishes_is_rejected(
    swappable: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(create_app(Settings(model=str(swappable), admin_token=SecretStr("secret")))) as client:
        monkeypatch.setattr("src.mlops.serving.model_file.TRIAL_SECONDS", 5.0)
        with_an_endless_loop(exported, swappable)
        assert client.post("/admin/reload", headers=ADMIN).status_code == 409
        monkeypatch.undo()
        swappable.write_bytes(other_model(exported))
        assert client.post("/admin/reload", headers=ADMIN).status_code == 200
        assert post(client, PNG).status_code == 200
    assert not trials()


def test_the_service_stops_during_a_trial(swappable: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.mlops.serving.model_file.WATCH_SECONDS", 0.01)
    with TestClient(create_app(Settings(model=str(swappable)))):
        with_an_endless_loop(exported, swappable)
        while not trials():
            pass
    assert not trials()


def test_a_registered_model_is_retried(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.mlops.serving.model_file.WATCH_SECONDS", 0.01)
    monkeypatch.setattr("src.mlops.serving.model_file.RETRY_SECONDS", (0.01, 0.02))
    is_reachable = threading.Event()

    def locate(_: str) -> Path:
        if not is_reachable.is_set():
            raise RegistryError("The store cannot be reached.")
        return exported

    monkeypatch.setattr("src.mlops.serving.model_holder.locate_model", locate)
    with TestClient(create_app(Settings(model="models:/gtsrb@production"))) as client:
        assert client.get("/health/ready").status_code == 503
        is_reachable.set()
        while client.get("/health/ready").status_code == 503:
            pass
        assert post(client, PNG).status_code == 200


def test_a_lost_promotion_does_not_bring_back_the_bundled_model(
    exported: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = [exported]
    monkeypatch.setattr("src.mlops.serving.model_holder.locate_model", lambda _: found[0])
    settings = Settings(model="production", admin_token=SecretStr("secret"), allow_other_classes=True)
    with TestClient(create_app(settings)) as client:
        version = client.get("/model").json()["model_version"]
        found[0] = ROOT / BUNDLED
        answer = client.post("/admin/reload", headers=ADMIN)
        assert answer.status_code == 409
        assert "inv registry.sync" in caplog.text
        assert client.get("/model").json()["model_version"] == version


def failing_trials(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> list[Exception]:
    """Makes the start of the next trials fail. Returns the errors that are left."""
    start, left = asyncio.create_subprocess_exec, list(errors)

    async def fail(*command: str, **options: Any) -> asyncio.subprocess.Process:
        if left:
            raise left.pop(0)
        return await start(*command, **options)

    monkeypatch.setattr("src.mlops.serving.model_file._tested", {})
    monkeypatch.setattr("asyncio.create_subprocess_exec", fail)
    return left


def test_a_first_model_that_failed_is_retried_without_a_change(
    exported: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("src.mlops.serving.model_file.WATCH_SECONDS", 0.01)
    monkeypatch.setattr("src.mlops.serving.model_file.RETRY_SECONDS", (0.01, 0.02))
    failing_trials(monkeypatch, OSError("too many processes"), CheckpointError("The machine is too busy."))
    with TestClient(create_app(Settings(model=str(exported)))) as client:
        while client.get("/health/ready").status_code == 503:
            pass
        assert post(client, PNG).status_code == 200
    for message in ("too many processes", "too busy"):
        assert message in caplog.text


def test_a_change_is_not_missed_after_an_unexpected_error(
    swappable: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.mlops.serving.model_file.WATCH_SECONDS", 0.01)
    with TestClient(create_app(Settings(model=str(swappable)))) as client:
        first = client.get("/health/ready").json()["model_version"]
        errors = failing_trials(monkeypatch, OSError("too many processes"))
        swappable.write_bytes(other_model(exported))
        while post(client, PNG).json()["model_version"] == first:
            pass
    assert not errors


def test_another_model_can_have_the_same_time_and_size(swappable: Path, exported: Path) -> None:
    content = exported.read_bytes()
    times = (swappable.stat().st_atime_ns, swappable.stat().st_mtime_ns)
    with TestClient(create_app(Settings(model=str(swappable), admin_token=SecretStr("secret")))) as client:
        first = client.get("/health/ready").json()["model_version"]
        changed = content.replace(b'"seed"', b'"sEed"')
        assert changed != content
        swappable.write_bytes(changed)
        os.utime(swappable, ns=times)
        assert client.post("/admin/reload", headers=ADMIN).status_code == 409  # tested again only then
        assert client.post("/admin/reload", headers=ADMIN).json()["model_version"] != first
        assert post(client, PNG).status_code == 200


def test_slow_networks_run_in_threads(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.mlops.serving.model_holder._QUICK_SECONDS", 0.0)
    with TestClient(create_app(Settings(model=str(checkpoint)))) as client:
        expected = Classifier.load(checkpoint).classify([PNG])[0].predicted_class
        parts = [("files", (f"{number}.png", PNG)) for number in range(40)]
        results = client.post("/cv_model/batch", files=parts).json()["results"]
        assert {result["predicted_class"] for result in results} == {expected}
