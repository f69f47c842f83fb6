"""The service through HTTP: good pictures, bad requests, overload, new models, no model, a port in use."""

import asyncio
import io
import json
import logging
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import numpy as np
import onnx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from prometheus_client import REGISTRY
from pydantic import SecretStr, ValidationError

from src.mlops import ROOT
from src.mlops.api import create_app
from src.mlops.checkpoint import read_plain, write_content
from src.mlops.config import load_config
from src.mlops.data.signs import SIGNS
from src.mlops.inference import Classifier
from src.mlops.model import build_model
from src.mlops.service_process import free_port
from src.mlops.serving.engine import Engine
from src.mlops.serving.logs import set_up
from src.mlops.serving.processes import listen
from src.mlops.serving.settings import Settings
from tests.conftest import picture
from tests.unit.test_preprocessing import encode, png_header

SNAPSHOT = Path(__file__).with_name("openapi.json")
PNG = encode(picture(1), "PNG")


@pytest.fixture
def client(checkpoint: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(model=str(checkpoint), max_upload_bytes=100_000))) as client:
        yield client


@pytest.fixture
def empty_client(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(model=str(tmp_path / "none.pth")))) as client:
        yield client


def post(client: TestClient, content: bytes, name: str = "sign.png"):  # type: ignore[no-untyped-def]
    return client.post("/cv_model/", files={"file": (name, content)})


def test_answers_like_the_classifier(client: TestClient, checkpoint: Path) -> None:
    response = post(client, PNG)
    assert response.status_code == 200
    expected = Classifier.load(checkpoint).classify([PNG])[0].to_dict()
    number = SIGNS[expected["predicted_class"]].number
    assert response.json() == {**expected, "filename": "sign.png", "sign_number": number}
    assert set(response.json()) == {
        "filename", "predicted_class", "class_name", "probability", "top_k", "prediction_set", "is_unknown",
        "model_version", "sign_number",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["", "a" * 300 + ".png", "../../etc/passwd", "Straße 🚧.png", "x.exe"])
def test_the_name_of_the_file_does_not_matter(client: TestClient, name: str) -> None:
    response = post(client, PNG, name)
    assert response.status_code == (200 if name else 422)  # a part without a name is no file


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"hello", 415, "found something else"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "found something else"),
        (b"", 422, "empty file"),
        (PNG[:-40], 422, "damaged"),
        (png_header(50_000, 50_000), 422, "pixels"),
        (png_header(9_999, 9), 422, "damaged"),
        (encode(picture(0), "GIF", save_all=True, append_images=[picture(1)]), 422, "several frames"),
        (PNG + b"\0" * 100_000, 413, "at most 100,000 bytes"),
        (PNG + b"\0" * 300_000, 413, "at most 100,000 bytes"),
    ],
)
def test_bad_uploads(client: TestClient, content: bytes, status: int, message: str) -> None:
    response = post(client, content)
    assert (response.status_code, message in response.json()["detail"]) == (status, True), response.text
    assert post(client, PNG).status_code == 200


def test_missing_file(client: TestClient) -> None:
    assert client.post("/cv_model/").status_code == 422
    assert client.post("/cv_model/", data={"file": "text"}).status_code == 422
    assert client.post("/cv_model/", files={"image": PNG}).status_code == 422
    assert client.get("/cv_model/").status_code == 405


def test_health(client: TestClient, checkpoint: Path) -> None:
    assert client.get("/health/live").json() == {"status": "alive"}
    version = Classifier.load(checkpoint).version
    assert client.get("/health/ready").json() == {"status": "ready", "model_version": version}
    assert client.get("/docs").status_code == 200


def test_without_a_model(empty_client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    response = post(empty_client, PNG)
    assert (response.status_code, response.json()["detail"]) == (500, "Model not loaded. Check server logs.")
    assert empty_client.get("/health/live").status_code == 200
    assert empty_client.get("/health/ready").status_code == 503
    assert "serving without a model" in caplog.get_records("setup")[0].message


def test_none_serves_without_a_model(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(model="none"))) as client:
        response = post(client, PNG)
    assert (response.status_code, response.json()["detail"]) == (500, "Model not loaded. Check server logs.")


def test_damaged_model_does_not_keep_the_service_from_telling(tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"hello")
    with TestClient(create_app(Settings(model=str(tmp_path / "bad.pth")))) as client:
        assert client.get("/health/ready").status_code == 503


def assert_problem(response: httpx.Response, status: int, message: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["type"], body["status"], bool(body["title"])) == ("about:blank", status, True)
    assert message in body["detail"], body


@pytest.mark.parametrize("kind", ["image/png", "image/anything", "application/octet-stream", "image/png; charset=x"])
def test_a_picture_as_the_body(client: TestClient, kind: str) -> None:
    answer = client.post("/cv_model/", content=PNG, headers={"Content-Type": kind})
    assert answer.json() == post(client, PNG).json() | {"filename": ""}


@pytest.mark.parametrize(
    ("path", "content", "kind", "status", "message"),
    [
        ("/cv_model/", PNG, "text/plain", 422, "found text/plain"),
        ("/cv_model/", PNG, "", 422, "found no content type"),
        ("/cv_model/", b"", "image/png", 422, "empty file"),
        ("/cv_model/", b"\0" * 100_001, "image/png", 413, "at most 100,000 bytes"),
        ("/cv_model/", PNG, "multipart/form-data", 400, "names no boundary"),
        ("/cv_model/", PNG, "multipart/form-data; boundary=" + "x" * 71, 400, "names no boundary"),
        ("/cv_model/", b"--x\r\nnonsense", "multipart/form-data; boundary=x", 400, "well-formed"),
        ("/cv_model/", PNG, "multipart/form-data; boundary=x", 400, "well-formed"),
        ("/cv_model/", b"--x\r\n\r\n\r\n--x--", "multipart/form-data; boundary=x", 422, "found none"),
        (
            "/cv_model/",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc',
            "multipart/form-data; boundary=x",
            400,
            "closing boundary",
        ),
        (
            "/cv_model/",
            b"--x\r\nX-Long: " + b"a" * 5000 + b"\r\n\r\nabc\r\n--x--",
            "multipart/form-data; boundary=x",
            400,
            "well-formed",
        ),
        (
            "/cv_model/",
            b"".join(b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' for _ in range(20)) + b"--x--",
            "multipart/form-data; boundary=x",
            413,
            "parts",
        ),
        ("/cv_model/batch", PNG, "image/png", 422, "parts `files`"),
        ("/cv_model/batch", b"--x--", "multipart/form-data; boundary=x", 422, "found none"),
        ("/cv_model/explain", b"hello", "image/png", 415, "found something else"),
        ("/cv_model/explain", PNG[:-40], "image/png", 422, "damaged"),
        ("/admin/reload", b"", "", 401, "admin's token"),
        ("/nowhere", b"", "", 404, "Not Found"),
    ],
)
def test_bad_requests(client: TestClient, path: str, content: bytes, kind: str, status: int, message: str) -> None:
    assert_problem(client.post(path, content=content, headers={"Content-Type": kind}), status, message)
    assert post(client, PNG).status_code == 200


def test_several_at_once(client: TestClient) -> None:
    names = ["a.png", "text.txt", "b.png", "large.png"]
    contents = [PNG, b"hello", encode(picture(2), "PNG"), PNG + b"\0" * 100_000]
    parts = [("files", (name, content)) for name, content in zip(names, contents, strict=True)]
    results = client.post("/cv_model/batch", files=parts).json()["results"]
    assert [result["filename"] for result in results] == names
    alone = post(client, PNG, "a.png").json()
    assert results[0]["probability"] == pytest.approx(alone["probability"], abs=1e-6)
    assert results[0]["predicted_class"] == alone["predicted_class"]
    assert (results[1]["status"], "found something else" in results[1]["error"]) == (415, True)
    assert results[2]["predicted_class"] == post(client, contents[2]).json()["predicted_class"]
    assert (results[3]["status"], "at most 100,000 bytes" in results[3]["error"]) == (413, True)


def test_uploads_share_their_memory(checkpoint: Path) -> None:
    app = create_app(Settings(model=str(checkpoint), max_batch_bytes=10_000))

    async def ask() -> tuple[int, list[int]]:
        async with app.router.lifespan_context(app):
            released, status = asyncio.Event(), []

            async def receive_half() -> dict[str, object]:
                if not waiting.is_set():
                    waiting.set()
                    return {"type": "http.request", "body": b"x" * 9_000, "more_body": True}
                await released.wait()
                return {"type": "http.disconnect"}

            async def send(message: MutableMapping[str, object]) -> None:
                if message["type"] == "http.response.start":
                    status.append(message["status"])

            scope = {
                "type": "http", "method": "POST", "path": "/cv_model/batch", "raw_path": b"", "query_string": b"",
                "headers": [(b"content-type", b"multipart/form-data; boundary=x")], "http_version": "1.1",
            }  # fmt: skip
            held = []
            for _ in range(4):  # clients that do not go on hold nine tenths of what there is
                waiting = asyncio.Event()
                held.append(asyncio.create_task(app(dict(scope), receive_half, send)))
                await waiting.wait()
                await asyncio.sleep(0)
            async with asking(app) as client:
                parts = [("files", ("a.png", b"x" * 9_000))]
                refused = await client.post("/cv_model/batch", files=parts)
                released.set()
                await asyncio.gather(*held)
                assert (await client.post("/cv_model/batch", files=[("files", ("a.png", PNG))])).status_code == 200
            assert refused.headers["retry-after"] == "1"
            return refused.status_code, status

    assert asyncio.run(ask()) == (503, [])


def test_a_network_that_cannot_explain_says_so(trained: Path, tmp_path: Path) -> None:
    config = load_config(["data.image_size=24", "model=tiny_cnn"])
    content = read_plain(trained / "latest" / "best_model.pth")
    tiny = build_model(config.model)
    path = tmp_path / "tiny.pth"
    write_content(path, content | {"config": config.to_dict(), "state_dict": tiny.state_dict()})
    with TestClient(create_app(Settings(model=str(path)))) as client:
        assert post(client, PNG).status_code == 200
        assert_problem(client.post("/cv_model/explain", files={"file": ("a.png", PNG)}), 501, "Use SignNet")


def test_a_model_that_answers_no_numbers_is_refused(swappable: Path, exported: Path) -> None:
    model = onnx.load(exported)
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.nan, weight.name))
    with TestClient(create_app(Settings(model=str(swappable), admin_token=SecretStr("secret")))) as client:
        swappable.write_bytes(model.SerializeToString())
        assert client.post("/admin/reload", headers=ADMIN).status_code == 409
        assert post(client, PNG).status_code == 200


def test_a_watch_survives_what_nobody_foresaw(swappable: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.mlops.serving.engine.WATCH_SECONDS", 0.01)
    failed = threading.Event()

    def fails_once(*_: object) -> list[object]:
        monkeypatch.undo()
        monkeypatch.setattr("src.mlops.serving.engine.WATCH_SECONDS", 0.01)
        failed.set()
        raise OSError("the disk has a bad moment")

    with TestClient(create_app(Settings(model=str(swappable)))) as client:
        first = client.get("/health/ready").json()["model_version"]
        monkeypatch.setattr(Engine, "_state", fails_once)
        assert failed.wait(10)
        swappable.write_bytes(other_model(exported))
        while post(client, PNG).json()["model_version"] == first:
            pass


def test_too_many_at_once(client: TestClient) -> None:
    parts = [("files", (f"{number}.png", PNG)) for number in range(65)]
    assert_problem(client.post("/cv_model/batch", files=parts), 413, "at most 64 pictures")
    assert len(client.post("/cv_model/batch", files=parts[:64]).json()["results"]) == 64


def test_a_batch_beyond_the_limit_of_bytes(checkpoint: Path) -> None:
    with TestClient(create_app(Settings(model=str(checkpoint), max_batch_bytes=1000))) as client:
        assert_problem(client.post("/cv_model/batch", files=[("files", ("a", PNG))]), 413, "at most 1,000 bytes")


def test_explains(client: TestClient) -> None:
    answer = client.post("/cv_model/explain", files={"file": ("sign.png", PNG)})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(answer.content)).size == (240, 240)


def test_tells_what_it_serves(client: TestClient, checkpoint: Path) -> None:
    answer = client.get("/model").json()
    assert answer["model_version"] == Classifier.load(checkpoint).version
    assert (len(answer["classes"]), answer["image_size"]) == (43, 24)
    assert answer["provenance"]["trained_on"] == ["train"]
    assert str(checkpoint.parents[1]) not in str(answer)  # of its configuration nothing that names folders


def test_every_answer_is_guarded(client: TestClient) -> None:
    for answer in [post(client, PNG), client.get("/"), client.get("/docs"), client.get("/nowhere")]:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe-eval" not in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers


def test_request_ids_come_back(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    assert client.get("/health/live", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = [
        client.get("/health/live", headers={"X-Request-ID": bad}).headers["x-request-id"]
        for bad in ("", "a\tb", "x" * 200)
    ]
    assert len(set(made)) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


def test_headers_have_a_limit(client: TestClient) -> None:
    assert_problem(client.get("/health/live", headers={"X-Long": "a" * 20_000}), 431, "16,384 bytes of headers")
    assert_problem(client.get("/health/live?" + "a" * 20_000), 431, "16,384 bytes of headers")
    assert client.get("/health/live").status_code == 200


def test_keys(checkpoint: Path) -> None:
    with TestClient(create_app(Settings(model=str(checkpoint), api_keys=SecretStr("one, two")))) as client:
        assert_problem(post(client, PNG), 401, "found none")
        assert_problem(client.get("/model", headers={"X-API-Key": "three"}), 401, "found another")
        assert_problem(client.get("/model", headers={"X-API-Key": "é".encode("latin-1")}), 401, "found another")  # type: ignore[dict-item]
        for key in ("one", "two"):
            client.headers["X-API-Key"] = key
            assert post(client, PNG).status_code == 200
        del client.headers["X-API-Key"]
        for path in ("/", "/docs", "/health/live", "/health/ready", "/metrics", "/static/page.js"):
            assert client.get(path).status_code == 200, path
        for path in ("/static/..%2f..%2fsettings.py", "/static/%2e%2e/settings.py", "/static//etc/passwd"):
            assert client.get(path).status_code == 404, path


@pytest.mark.parametrize("value", [",", " ", "schlüssel"])
def test_keys_that_are_none_do_not_open_the_service(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MLOPS_API_KEYS", value)
    with pytest.raises(ValidationError, match="expected keys of ASCII characters"):
        Settings()


def test_other_origins_may_ask_only_where_they_are_named(checkpoint: Path, client: TestClient) -> None:
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert client.options("/cv_model/", headers=preflight).status_code == 405
    settings = Settings(model=str(checkpoint), cors_origins="https://a.example", api_keys=SecretStr("key"))
    with TestClient(create_app(settings)) as open_client:
        allowed = open_client.options("/cv_model/", headers=preflight)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://a.example")
        other = open_client.options("/cv_model/", headers=preflight | {"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


def asking(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


def test_beyond_the_queue_is_told_to_come_again(checkpoint: Path) -> None:
    app = create_app(Settings(model=str(checkpoint), queue_size=4))
    large = encode(picture(1, side=1200), "PNG")  # decoded in a thread, so that all of them wait at once

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
    assert_problem(refused[0], 503, "at most 4 pictures")


def test_waiting_pictures_run_together(checkpoint: Path) -> None:
    app = create_app(Settings(model=str(checkpoint)))
    pictures = [encode(picture(number), "PNG") for number in range(20)]

    async def ask() -> list[dict[str, object]]:
        async with app.router.lifespan_context(app), asking(app) as client:
            answers = await asyncio.gather(
                *(client.post("/cv_model/", content=one, headers={"Content-Type": "image/png"}) for one in pictures)
            )
            return [answer.json() for answer in answers]

    before = sample("mlops_batch_size_sum"), sample("mlops_batch_size_count")
    found = asyncio.run(ask())
    expected = Classifier.load(checkpoint).classify(pictures)
    assert [answer["predicted_class"] for answer in found] == [prediction.predicted_class for prediction in expected]
    ran, batches = sample("mlops_batch_size_sum") - before[0], sample("mlops_batch_size_count") - before[1]
    assert (ran, batches < 20) == (20, True)


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_metrics(client: TestClient) -> None:
    before = [sample("mlops_requests_total", route="/cv_model/", status=status) for status in ("200", "415")]
    answer = post(client, PNG).json()
    post(client, b"hello")
    client.get("/nowhere/1")
    text = client.get("/metrics").text
    after = [sample("mlops_requests_total", route="/cv_model/", status=status) for status in ("200", "415")]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1]
    assert f'mlops_model_info{{version="{answer["model_version"]}"}} 1.0' in text
    assert f'mlops_predictions_total{{class_id="{answer["predicted_class"]}"}}' in text
    assert 'route="other"' in text
    assert "/nowhere" not in text  # a stranger's paths make no series
    assert "mlops_queue_depth 0.0" in text
    for stage in ("decode", "queue", "inference"):
        assert f'mlops_stage_seconds_bucket{{le="0.001",stage="{stage}"}}' in text


ADMIN = {"Authorization": "Bearer secret"}


@pytest.fixture
def swappable(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(exported, tmp_path / "model.onnx"))


def other_model(exported: Path) -> bytes:
    """The same network with another temperature in its metadata: another version."""
    model = onnx.load(exported)
    for entry in model.metadata_props:
        if entry.key == "metrics":
            entry.value = '{"val_Accuracy": 0.5}'
    return bytes(model.SerializeToString())


def test_reload_swaps_and_refuses(swappable: Path, exported: Path) -> None:
    with TestClient(create_app(Settings(model=str(swappable), admin_token=SecretStr("secret")))) as client:
        first = client.get("/health/ready").json()["model_version"]
        assert_problem(client.post("/admin/reload", headers={"Authorization": "Bearer wrong"}), 401, "token")
        swappable.write_bytes(other_model(exported))
        second = client.post("/admin/reload", headers=ADMIN).json()["model_version"]
        assert second not in {first, None}
        swappable.write_bytes(b"no model")
        answer = client.post("/admin/reload", headers=ADMIN)
        assert_problem(answer, 409, "The log says why")
        assert str(swappable) not in answer.text
        assert post(client, PNG).json()["model_version"] == second


def test_nobody_reloads_without_a_token(swappable: Path) -> None:
    with TestClient(create_app(Settings(model=str(swappable)))) as client:
        for given in ("", "Bearer ", "Bearer None"):
            assert client.post("/admin/reload", headers={"Authorization": given}).status_code == 401


def test_a_changed_file_is_served(swappable: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.mlops.serving.engine.WATCH_SECONDS", 0.01)
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


def test_a_swap_under_load_fails_no_request(swappable: Path, exported: Path) -> None:
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


def test_a_model_comes_later(tmp_path: Path, exported: Path) -> None:
    path = tmp_path / "model.onnx"
    with TestClient(create_app(Settings(model=str(path), admin_token=SecretStr("secret")))) as client:
        assert client.get("/health/ready").status_code == 503
        shutil.copy(exported, path)
        assert client.post("/admin/reload", headers=ADMIN).status_code == 200
        assert post(client, PNG).status_code == 200


def test_a_failure_nobody_foresaw_tells_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Classifier, "classify_arrays", lambda *_: 1 / 0)
    answer = post(client, PNG)
    assert_problem(answer, 500, "Its log says why")
    assert "division" not in answer.text
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    assert post(client, PNG).status_code == 200


def test_slow_networks_run_in_threads(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.mlops.serving.engine._QUICK_SECONDS", 0.0)
    with TestClient(create_app(Settings(model=str(checkpoint)))) as client:
        expected = Classifier.load(checkpoint).classify([PNG])[0].predicted_class
        parts = [("files", (f"{number}.png", PNG)) for number in range(40)]
        results = client.post("/cv_model/batch", files=parts).json()["results"]
        assert {result["predicted_class"] for result in results} == {expected}


def test_logs_hold_the_request_id_and_no_picture(client: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        set_up("json", "debug")
        client.post("/cv_model/", files={"file": ("sign.png", PNG)}, headers={"X-Request-ID": "abc-1"})
        client.post("/cv_model/", files={"file": ("sign.png", b"not a picture")}, headers={"X-Request-ID": "abc-2"})
    finally:
        root.handlers[:], root.level = handlers, level
    written = capsys.readouterr().err
    lines = [line for line in map(json.loads, written.splitlines()) if "httpRequest" in line]
    assert [(line["request_id"], line["severity"]) for line in lines] == [("abc-1", "DEBUG"), ("abc-2", "INFO")]
    assert lines[1]["httpRequest"]["status"] == 415
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", lines[0]["time"])
    assert "IHDR" not in written
    assert "not a picture" not in written


def test_the_interface_is_the_documented_one() -> None:
    """The snapshot is written anew by `python -m tests.unit.test_api`; a change of it is a change of the interface."""
    assert create_app(Settings(model="none")).openapi() == json.loads(SNAPSHOT.read_text())


def test_the_documents_list_every_setting() -> None:
    document = (ROOT / "docs/serving.md").read_text()
    for line in settings_table():
        assert line in document, f"docs/serving.md lacks: {line}"


def settings_table() -> list[str]:
    return [
        f"| `MLOPS_{name.upper()}` | {f'`{field.default}`' if field.default else 'unset'} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_MODEL", "some/model.pth")
    monkeypatch.setenv("MLOPS_MAX_UPLOAD_BYTES", "1")
    assert (Settings().model, Settings().max_upload_bytes) == ("some/model.pth", 1)


def test_uvicorn_finds_the_application() -> None:
    from uvicorn.importer import import_from_string

    assert import_from_string("src.mlops.api:app").title == "German traffic signs"


def test_answers_are_not_held_back() -> None:
    with listen(Settings(port=free_port())) as listener:
        assert listener.proto == socket.IPPROTO_TCP  # for which asyncio turns Nagle's algorithm off


def test_port_in_use_is_one_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "src.mlops.api", "--port", str(port)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: expected to listen on 127.0.0.1:{port}, found: Address already in use")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "99999"], "port: Input should be less than or equal to 65535"),
        (["--port", "abc"], "port: Input should be a valid integer"),
        (["--host", "203.0.113.1"], "Give an address of this machine"),
    ],
)
def test_bad_options_are_one_line(options: list[str], message: str) -> None:
    command = [sys.executable, "-m", "src.mlops.api", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, message in result.stderr) == (1, True), result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_the_service_quietly(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "src.mlops.api",
        "--port",
        str(free_port()),
        "--model",
        str(tmp_path / "none.pth"),
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr
        lines = []
        for line in service.stderr:
            lines.append(line)
            if "serving without a model" in line:
                service.send_signal(signal.SIGINT)
    assert service.returncode == 130
    assert "Traceback" not in "".join(lines)


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(create_app(Settings(model="none")).openapi(), indent=1) + "\n")
    sys.stdout.write("\n".join(settings_table()) + "\n")
