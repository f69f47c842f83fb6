"""Tests the service through HTTP: images, invalid requests, security, metrics, logs, model changes and settings."""

import asyncio
import gzip
import io
import json
import logging
import re
import shutil
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from fastapi.testclient import TestClient
from limits.storage import MemoryStorage
from PIL import Image
from pydantic import SecretStr, ValidationError
from starlette.requests import HTTPConnection

from src.mlops.data.classes import ClassInfo, ClassList
from src.mlops.data.gtsrb import SIGNS
from src.mlops.errors import CheckpointError, describe
from src.mlops.inference.classifier import Classifier
from src.mlops.model import build_model
from src.mlops.modelfile.checkpoint import read_plain, write_content
from src.mlops.project import Project, load_project
from src.mlops.serving.app import create_app
from src.mlops.serving.logs import start_logging
from src.mlops.serving.rate_limit import RateLimit
from src.mlops.serving.settings import Settings
from tests.helpers.graphs import with_classes
from tests.helpers.images import encode, make_image, png_header
from tests.helpers.service import ADMIN, PNG, SNAPSHOT, asking, assert_problem, other_model, post, sample
from tests.helpers.tiny import quick_config


@pytest.fixture(scope="module")
def client(trained: Path) -> Iterator[TestClient]:
    checkpoint = trained / "latest" / "best_model.pth"
    with TestClient(create_app(Settings(model=str(checkpoint), max_upload_bytes=100_000))) as client:
        yield client


@pytest.fixture
def empty_client(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(model=str(tmp_path / "none.pth")))) as client:
        yield client


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
def test_any_file_name_is_accepted(client: TestClient, name: str) -> None:
    response = post(client, PNG, name)
    assert response.status_code == (200 if name else 422)  # a part without a file name is not a file


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"hello", 415, "WEBP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "WEBP"),
        (b"", 422, "0 bytes"),
        (PNG[:-40], 422, "corrupted"),
        (png_header(50_000, 50_000), 422, "pixels"),
        (png_header(9_999, 9), 422, "corrupted"),
        (encode(make_image(0), "GIF", save_all=True, append_images=[make_image(1)]), 422, "frames"),
        (PNG + b"\0" * 100_000, 413, "100,000 bytes"),
        (PNG + b"\0" * 300_000, 413, "100,000 bytes"),
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


def test_service_without_a_model(empty_client: TestClient, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    response = post(empty_client, PNG)
    assert (response.status_code, response.json()["detail"]) == (500, "Model not loaded. Check server logs.")
    assert empty_client.get("/health/live").status_code == 200
    assert empty_client.get("/health/ready").status_code == 503
    record = caplog.get_records("setup")[0]
    assert (record.levelname, str(tmp_path / "none.pth") in record.message) == ("ERROR", True)


def test_model_none_starts_without_a_model(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(model="none"))) as client:
        response = post(client, PNG)
    assert (response.status_code, response.json()["detail"]) == (500, "Model not loaded. Check server logs.")


def test_service_starts_with_a_corrupted_model(tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"hello")
    with TestClient(create_app(Settings(model=str(tmp_path / "bad.pth")))) as client:
        assert client.get("/health/ready").status_code == 503


@pytest.mark.parametrize("kind", ["image/png", "image/anything", "application/octet-stream", "image/png; charset=x"])
def test_an_image_as_the_body(client: TestClient, kind: str) -> None:
    answer = client.post("/cv_model/", content=PNG, headers={"Content-Type": kind})
    assert answer.json() == post(client, PNG).json() | {"filename": ""}


@pytest.mark.parametrize(
    ("path", "content", "kind", "status", "message"),
    [
        ("/cv_model/", PNG, "text/plain", 422, "text/plain"),
        ("/cv_model/", PNG, "", 422, "content type"),
        ("/cv_model/", b"", "image/png", 422, "0 bytes"),
        ("/cv_model/", b"\0" * 100_001, "image/png", 413, "100,000 bytes"),
        ("/cv_model/", PNG, "multipart/form-data", 400, "70 characters"),
        ("/cv_model/", PNG, "multipart/form-data; boundary=" + "x" * 71, 400, "70 characters"),
        ("/cv_model/", b"--x\r\nnonsense", "multipart/form-data; boundary=x", 400, "closing boundary"),
        ("/cv_model/", PNG, "multipart/form-data; boundary=x", 400, "boundary"),
        ("/cv_model/", b"--x--", "Multipart/Form-Data; boundary=x", 422, "part `file`"),
        ("/cv_model/", b"--x\r\n\r\n\r\n--x--", "multipart/form-data; boundary=x", 422, "part `file`"),
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
            "header size",
        ),
        (
            "/cv_model/",
            b"".join(b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' for _ in range(20)) + b"--x--",
            "multipart/form-data; boundary=x",
            413,
            "9 parts",
        ),
        ("/cv_model/batch", PNG, "image/png", 422, "parts `files`"),
        ("/cv_model/batch", b"--x--", "multipart/form-data; boundary=x", 422, "part `files`"),
        ("/cv_model/explain", b"hello", "image/png", 415, "WEBP"),
        ("/cv_model/explain", PNG[:-40], "image/png", 422, "corrupted"),
        ("/admin/reload", b"", "", 401, "Authorization: Bearer"),
        ("/nowhere", b"", "", 404, "Not Found"),
    ],
)
def test_invalid_requests(client: TestClient, path: str, content: bytes, kind: str, status: int, message: str) -> None:
    assert_problem(client.post(path, content=content, headers={"Content-Type": kind}), status, message)
    assert post(client, PNG).status_code == 200


def test_a_batch_with_good_and_bad_images(client: TestClient) -> None:
    names = ["a.png", "text.txt", "b.png", "large.png"]
    contents = [PNG, b"hello", encode(make_image(2), "PNG"), PNG + b"\0" * 100_000]
    parts = [("files", (name, content)) for name, content in zip(names, contents, strict=True)]
    results = client.post("/cv_model/batch", files=parts).json()["results"]
    assert [result["filename"] for result in results] == names
    alone = post(client, PNG, "a.png").json()
    assert results[0]["probability"] == pytest.approx(alone["probability"], abs=1e-6)
    assert results[0]["predicted_class"] == alone["predicted_class"]
    assert (results[1]["status"], "WEBP" in results[1]["error"]) == (415, True)
    assert results[2]["predicted_class"] == post(client, contents[2]).json()["predicted_class"]
    assert (results[3]["status"], "100,000 bytes" in results[3]["error"]) == (413, True)


def test_uploads_share_a_memory_limit(checkpoint: Path) -> None:
    app = create_app(Settings(model=str(checkpoint), max_batch_bytes=10_000, max_upload_bytes=10_000))

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
            for _ in range(11):  # stalled clients hold nearly all of the memory
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

    assert asyncio.run(ask()) == (503, 11 * [400])  # nobody receives the 400


def test_a_network_without_saliency_maps(trained: Path, tmp_path: Path) -> None:
    config = quick_config(["data.image_size=24", "model=tiny_cnn"])
    content = read_plain(trained / "latest" / "best_model.pth")
    tiny = build_model(config.model, len(SIGNS))
    path = tmp_path / "tiny.pth"
    write_content(path, content | {"config": config.to_dict(), "state_dict": tiny.state_dict()})
    with TestClient(create_app(Settings(model=str(path)))) as client:
        assert post(client, PNG).status_code == 200
        assert_problem(client.post("/cv_model/explain", files={"file": ("a.png", PNG)}), 501, "SignNet")


def test_a_model_that_fails_while_it_is_served(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise CheckpointError(f"The model {checkpoint} cannot be used")

    app = create_app(Settings(model=str(checkpoint)))
    with TestClient(app, raise_server_exceptions=False) as client:
        monkeypatch.setattr(Classifier, "run", fail)
        for answer in (post(client, PNG), client.post("/cv_model/explain", files={"file": ("a.png", PNG)})):
            assert_problem(answer, 500, "X-Request-ID")
            assert str(checkpoint) not in answer.text


def test_a_model_that_returns_nan_is_rejected(swappable: Path, exported: Path) -> None:
    model = onnx.load(exported)
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.nan, weight.name))
    with TestClient(create_app(Settings(model=str(swappable), admin_token=SecretStr("secret")))) as client:
        swappable.write_bytes(model.SerializeToString())
        assert client.post("/admin/reload", headers=ADMIN).status_code == 409
        assert post(client, PNG).status_code == 200


def test_a_batch_with_too_many_images(client: TestClient) -> None:
    parts = [("files", (f"{number}.png", PNG)) for number in range(65)]
    assert_problem(client.post("/cv_model/batch", files=parts), 413, "65 images")
    assert len(client.post("/cv_model/batch", files=parts[:64]).json()["results"]) == 64


def test_a_batch_with_too_many_bytes(checkpoint: Path) -> None:
    with TestClient(create_app(Settings(model=str(checkpoint), max_batch_bytes=1000, max_upload_bytes=1000))) as client:
        parts = [("files", ("a", b"x" * 20_000))]
        assert_problem(client.post("/cv_model/batch", files=parts), 413, "1,000 bytes")
        stream = iter([b"x" * 10_000] * 2)  # without Content-Length
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        assert_problem(client.post("/cv_model/batch", content=stream, headers=kind), 413, "1,000 bytes")


def test_explain_returns_a_saliency_map(client: TestClient) -> None:
    answer = client.post("/cv_model/explain", files={"file": ("sign.png", PNG)})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(answer.content)).size == (240, 240)


def test_model_facts(client: TestClient, checkpoint: Path) -> None:
    answer = client.get("/model").json()
    assert answer["model_version"] == Classifier.load(checkpoint).version
    assert (len(answer["classes"]), answer["image_size"]) == (43, 24)
    assert answer["provenance"]["trained_on"] == ["train"]
    assert "image_sketch" not in answer["provenance"]
    assert str(checkpoint.parents[1]) not in str(answer)  # no paths from the configuration


def test_model_facts_are_valid_json_after_a_calibration_with_few_images(client: TestClient) -> None:
    facts = json.loads(client.get("/model").text, parse_constant=pytest.fail)
    assert 0 < facts["calibration"]["attained_coverage"] < facts["calibration"]["coverage"] == 0.999


def test_every_response_has_security_headers(client: TestClient) -> None:
    for answer in [post(client, PNG), client.get("/"), client.get("/docs"), client.get("/nowhere")]:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe-eval" not in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers


def test_responses_have_the_request_id(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    assert client.get("/health/live", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = [
        client.get("/health/live", headers={"X-Request-ID": bad}).headers["x-request-id"]
        for bad in ("", "a\tb", "x" * 200)
    ]
    assert len(set(made)) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


def test_headers_have_a_limit(client: TestClient) -> None:
    assert_problem(client.get("/health/live", headers={"X-Long": "a" * 20_000}), 431, "16,384")
    assert_problem(client.get("/health/live?" + "a" * 20_000), 431, "16,384")
    assert client.get("/health/live").status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/model", "/health/ready", "/metrics", "/static/page.js"])
def test_head_answers_like_get_without_a_body(client: TestClient, path: str) -> None:
    head, got = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize("path", ["/model/", "/openapi.json/", "/health/ready/", "/metrics/"])
def test_a_trailing_slash_makes_no_difference(client: TestClient, path: str) -> None:
    assert client.get(path, follow_redirects=False).status_code == 200
    parts = [("files", ("a.png", PNG))]
    assert client.post("/cv_model/batch/", files=parts).json() == client.post("/cv_model/batch", files=parts).json()
    assert_problem(client.get("/nowhere/"), 404, "Not Found")


@pytest.mark.parametrize("path", ["", "docs", "docs/", "review", "review/", "docs/?a=b"])
def test_the_files_of_a_page_are_found(client: TestClient, path: str) -> None:
    page = client.get(f"/{path}")
    files = re.findall(r'(?:src|href)="(static/[^"]+)"', page.text)
    assert len(files) >= 3
    for file in files:
        assert client.get(str(page.url.join(file))).status_code == 200


@pytest.mark.parametrize("path", ["/nowhere", "/nowhere/"])
def test_the_log_has_the_requested_path(client: TestClient, path: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert client.get(path).status_code == 404
    assert f"GET {path!r} 404" in caplog.text


def test_media_types_ignore_case(client: TestClient) -> None:
    assert client.post("/cv_model/", content=PNG, headers={"Content-Type": "Image/PNG"}).status_code == 200
    form = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + PNG + b"\r\n--x--"
    kind = {"Content-Type": "Multipart/Form-Data; Boundary=x"}
    assert client.post("/cv_model/", content=form, headers=kind).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "BR"])
def test_a_content_encoding_is_refused(client: TestClient, encoding: str) -> None:
    headers = {"Content-Type": "image/png", "Content-Encoding": encoding}
    answer = client.post("/cv_model/", content=gzip.compress(PNG), headers=headers)
    assert_problem(answer, 415, encoding)
    assert answer.headers["accept-encoding"] == "identity"
    assert client.post("/cv_model/", content=PNG, headers=headers | {"Content-Encoding": "identity"}).status_code == 200


def test_a_client_that_sends_too_slowly_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.mlops.serving.middleware.RECEIVE_SECONDS", 0.05)
    sent: list[MutableMapping[str, object]] = []

    async def never() -> dict[str, object]:
        await asyncio.Event().wait()
        return {}

    async def send(message: MutableMapping[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/cv_model/", "raw_path": b"", "query_string": b"",
        "headers": [(b"content-type", b"image/png")], "http_version": "1.1",
    }  # fmt: skip
    asyncio.run(client.app(scope, never, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 408


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MLOPS_MAX_UPLOAD_BYTES": "2000", "MLOPS_MAX_BATCH_BYTES": "1000"}, r"max_upload_bytes.*at most"),
        ({"MLOPS_RATE_LIMIT": "often"}, "100/minute"),
        ({"MLOPS_RATE_LIMIT": "0/minute"}, "100/minute"),
        ({"MLOPS_TRUSTED_PROXIES": "10.0.0.0/8,proxy"}, "'proxy'"),
        ({"MLOPS_TRUSTED_PROXIES": "10.0.0.1,*"}, r"must be \*"),
        ({"MLOPS_TRUSTED_PROXIES": "10.0.0.1/8"}, "host bits"),
        ({"MLOPS_CORS_ORIGINS": "https://a.example/"}, "without a path"),
        ({"MLOPS_CORS_ORIGINS": "https://*.a.example"}, "wildcards"),
        ({"MLOPS_CORS_ORIGINS": "https://A.example"}, "lower case"),
        ({"MLOPS_ROOT_PATH": "signs/"}, "such as /signs"),
    ],
)
def test_invalid_settings_are_refused(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=message):
        Settings()


def test_errors_of_settings_contain_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_API_KEYS", "first-key,schlüssel")
    monkeypatch.setenv("MLOPS_ADMIN_TOKEN", "admin-token")
    with pytest.raises(ValidationError) as wrong_key:
        Settings()
    monkeypatch.setenv("MLOPS_API_KEYS", "first-key")
    with pytest.raises(ValidationError) as wrong_limit:
        Settings(max_batch_bytes=1)
    for error in (wrong_key.value, wrong_limit.value):
        for secret in ("first-key", "admin-token"):
            assert secret not in f"{error} {describe(error)}"


def test_the_rate_limit_counts_each_client() -> None:
    settings = Settings(model="none", rate_limit="2/hour", api_keys=SecretStr("a,b"))
    with TestClient(create_app(settings)) as client:
        statuses = [client.get("/model", headers={"X-API-Key": key}).status_code for key in "aaab"]
        refused = client.get("/model", headers={"X-API-Key": "a"})
        assert client.get("/health/live").status_code == 200  # public routes have no limit
    assert statuses == [500, 500, 429, 500]
    assert_problem(refused, 429, "2 per 1 hour")
    assert 0 < int(refused.headers["retry-after"]) <= 3600


def test_the_rate_limit_forgets_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    monkeypatch.setattr("src.mlops.serving.rate_limit.MemoryStorage", lambda: storage)
    limit = RateLimit(Settings(rate_limit="1/second"))
    now = time.time()

    def ask(*addresses: str) -> None:
        for address in addresses:
            asyncio.run(limit(HTTPConnection({"type": "http", "headers": [], "client": (address, 1)})))

    ask(*(f"10.0.0.{number}" for number in range(50)))
    monkeypatch.setattr("time.time", lambda: now + 10)
    while len(storage.storage) + len(storage.events) > 2:  # a thread removes the former clients
        ask("10.0.1.1")
        now += 10


@pytest.mark.parametrize(("proxies", "statuses"), [("127.0.0.1", [500, 500, 429]), ("", [500, 429, 429])])
def test_trusted_proxies_give_the_address_of_the_client(proxies: str, statuses: list[int]) -> None:
    settings = Settings(model="none", rate_limit="1/hour", trusted_proxies=proxies)
    with TestClient(create_app(settings), client=("127.0.0.1", 1)) as client:
        addresses = ("203.0.113.1", "203.0.113.2", "203.0.113.1")
        answers = [client.get("/model", headers={"X-Forwarded-For": address}) for address in addresses]
    assert [answer.status_code for answer in answers] == statuses


def test_api_keys(checkpoint: Path) -> None:
    with TestClient(create_app(Settings(model=str(checkpoint), api_keys=SecretStr("one, two")))) as client:
        missing, wrong = post(client, PNG), client.get("/model", headers={"X-API-Key": "three"})
        non_ascii = client.get("/model", headers={"X-API-Key": "é".encode("latin-1")})  # type: ignore[dict-item]
        for response in (missing, wrong, non_ascii):
            assert_problem(response, 401, "X-API-Key")
        assert missing.json()["detail"] != wrong.json()["detail"] == non_ascii.json()["detail"]
        for key in ("one", "two"):
            client.headers["X-API-Key"] = key
            assert post(client, PNG).status_code == 200
        del client.headers["X-API-Key"]
        for path in ("/", "/docs", "/health/live", "/health/ready", "/metrics", "/static/page.js"):
            assert client.get(path).status_code == 200, path
        for path in ("/static/..%2f..%2fsettings.py", "/static/%2e%2e/settings.py", "/static//etc/passwd"):
            assert client.get(path).status_code == 404, path


@pytest.mark.parametrize("value", [",", " ", "schlüssel"])
def test_invalid_keys_do_not_disable_the_check(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MLOPS_API_KEYS", value)
    with pytest.raises(ValidationError, match=r"api_keys\s.*ASCII"):
        Settings()


def test_cors_allows_only_configured_origins(checkpoint: Path, client: TestClient) -> None:
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert client.options("/cv_model/", headers=preflight).status_code == 405
    settings = Settings(model=str(checkpoint), cors_origins="https://a.example", api_keys=SecretStr("key"))
    with TestClient(create_app(settings)) as open_client:
        asked = {"Access-Control-Request-Headers": "content-type,x-api-key,x-request-id"}
        allowed = open_client.options("/cv_model/", headers=preflight | asked)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://a.example")
        other = open_client.options("/cv_model/", headers=preflight | {"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
        # A page can read an error only if it has the header as well.
        for response in (
            open_client.get("/model", headers={"Origin": "https://a.example"}),
            open_client.get("/health/live", headers={"Origin": "https://a.example", "X-Long": "a" * 20_000}),
        ):
            assert response.status_code in (401, 431)
            assert response.headers["access-control-allow-origin"] == "https://a.example"
            assert response.headers["x-request-id"]
            assert "X-Request-ID" in response.headers["access-control-expose-headers"]


def test_metrics(client: TestClient) -> None:
    before = [sample("mlops_requests_total", route="/cv_model/", status=status) for status in ("200", "415")]
    answer = post(client, PNG).json()
    post(client, b"hello")
    client.get("/nowhere/1")
    client.post("/cv_model", files={"file": ("a.png", PNG)})  # without the slash, it is the same route
    text = client.get("/metrics").text
    after = [sample("mlops_requests_total", route="/cv_model/", status=status) for status in ("200", "415")]
    assert [new - old for new, old in zip(after, before, strict=True)] == [2, 1]
    assert f'mlops_model_info{{version="{answer["model_version"]}"}} 1.0' in text
    assert (
        f'mlops_predictions_total{{class_id="{answer["predicted_class"]}",class_name="{answer["class_name"]}"}} '
        in text
    )
    assert sample("mlops_model_created_seconds") > 1_700_000_000
    assert 'mlops_reloads_total{outcome="refused"}' in text  # an alert needs the 0 before the first refusal
    assert 'route="other"' in text
    assert "/nowhere" not in text  # unknown paths add no time series
    assert "mlops_queue_depth 0.0" in text
    for stage in ("decode", "queue", "inference"):
        assert f'mlops_stage_seconds_bucket{{le="0.001",stage="{stage}"}}' in text


def test_reload_accepts_a_good_model_and_rejects_a_bad_one(swappable: Path, exported: Path) -> None:
    with TestClient(create_app(Settings(model=str(swappable), admin_token=SecretStr("secret")))) as client:
        first = client.get("/health/ready").json()["model_version"]
        assert_problem(client.post("/admin/reload", headers={"Authorization": "Bearer wrong"}), 401, "Bearer")
        swappable.write_bytes(other_model(exported))
        second = client.post("/admin/reload", headers=ADMIN).json()["model_version"]
        assert second not in {first, None}
        swappable.write_bytes(b"no model")
        answer = client.post("/admin/reload", headers=ADMIN)
        assert_problem(answer, 409, "log")
        assert str(swappable) not in answer.text
        assert post(client, PNG).json()["model_version"] == second


@pytest.mark.parametrize("token", ["secret", "secret\n"])  # a file with a token often ends with a newline
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_admin_token_is_compared_without_white_space(token: str, scheme: str) -> None:
    with TestClient(create_app(Settings(model="none", admin_token=SecretStr(token)))) as client:
        assert client.post("/admin/reload", headers={"Authorization": f"{scheme} secret"}).status_code == 409
        for wrong in (f"{scheme} secret2", f"{scheme} ", scheme, "secret", "Basic secret"):
            assert client.post("/admin/reload", headers={"Authorization": wrong}).status_code == 401


def test_reload_is_disabled_without_an_admin_token(swappable: Path) -> None:
    with TestClient(create_app(Settings(model=str(swappable)))) as client:
        for given in ("", "Bearer ", "Bearer None"):
            assert client.post("/admin/reload", headers={"Authorization": given}).status_code == 401


def test_the_response_hides_the_cause_of_an_unexpected_error(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Classifier, "run", lambda *_: 1 / 0)
    answer = post(client, PNG)
    assert_problem(answer, 500, "X-Request-ID")
    assert "division" not in answer.text
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    assert post(client, PNG).status_code == 200


def test_logs_contain_the_request_id_and_no_image(client: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        start_logging(Settings(log_format="json", log_level="debug"))
        client.post("/cv_model/", files={"file": ("sign.png", PNG)}, headers={"X-Request-ID": "abc-1"})
        client.post("/cv_model/", files={"file": ("sign.png", b"not an image")}, headers={"X-Request-ID": "abc-2"})
    finally:
        root.handlers[:], root.level = handlers, level
    written = capsys.readouterr().err
    lines = [line for line in map(json.loads, written.splitlines()) if "httpRequest" in line]
    assert [(line["request_id"], line["severity"]) for line in lines] == [("abc-1", "DEBUG"), ("abc-2", "INFO")]
    assert lines[1]["httpRequest"]["status"] == 415
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", lines[0]["time"])
    assert "IHDR" not in written
    assert "not an image" not in written


def test_openapi_document_equals_the_snapshot() -> None:
    """A difference is a change of the API. `python -m tests.unit.serving.test_app` overwrites the snapshot."""
    assert create_app(Settings(model="none")).openapi() == json.loads(SNAPSHOT.read_text())


SCREWS = Project(
    title="Screws <b>",
    registry="screws",
    page_title='Which "screw" & co?',
    image_title="'screw'",
    description="Classifies $screws.",
)


def test_pages_and_openapi_have_the_names_of_the_project() -> None:
    with TestClient(create_app(Settings(model="none"), SCREWS)) as client:
        page, docs = client.get("/"), client.get("/docs")
        assert page.headers["content-type"] == docs.headers["content-type"] == "text/html; charset=utf-8"
        assert "<title>Which &quot;screw&quot; &amp; co?</title>" in page.text
        assert '<body data-item="&#x27;screw&#x27;">' in page.text
        assert "<title>Screws &lt;b&gt;: API</title>" in docs.text
        assert not re.search(r"\$|\bsigns?\b|German|43|<b>", page.text + docs.text)
        info = client.get("/openapi.json").json()["info"]
        assert (info["title"], info["description"]) == ("Screws <b>", "Classifies $screws.")


def test_openapi_examples_have_the_classes_of_the_model(exported: Path, tmp_path: Path) -> None:
    classes = ClassList(ClassInfo(place, f"screw {place}") for place in range(len(SIGNS)))
    model = tmp_path / "model.onnx"
    shutil.copy(exported, model)
    settings = Settings(model=str(model), admin_token=SecretStr("secret"), allow_other_classes=True)
    with TestClient(create_app(settings, SCREWS)) as client:

        def example_name() -> str:
            paths = client.get("/openapi.json").json()["paths"]
            one, several = (
                paths[path]["post"]["responses"]["200"]["content"]["application/json"]["example"]
                for path in ("/cv_model/", "/cv_model/batch")
            )
            assert several["results"][0] == one
            assert one.keys() == post(client, PNG).json().keys()
            return str(one["class_name"])

        assert example_name() == "Stop"
        assert "GTSRB" in client.get("/model").json()["intended_use"]
        with_classes(exported, model, classes)
        assert client.post("/admin/reload", headers=ADMIN).status_code == 200
        assert example_name() == "screw 0"
        assert post(client, PNG).json()["sign_number"] is None
        assert "GTSRB" not in client.get("/model").json()["intended_use"]


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_MODEL", "some/model.pth")
    monkeypatch.setenv("MLOPS_MAX_UPLOAD_BYTES", "1")
    assert (Settings().model, Settings().max_upload_bytes) == ("some/model.pth", 1)


def test_uvicorn_finds_the_application() -> None:
    from uvicorn.importer import import_from_string

    assert import_from_string("src.mlops.api:app").title == load_project().title


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(create_app(Settings(model="none")).openapi(), indent=1) + "\n")
