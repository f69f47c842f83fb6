"""The drift service through HTTP."""

import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr, ValidationError

from src.mlops.errors import describe
from src.mlops.monitoring.records import Model
from src.mlops.monitoring.report import Report
from src.mlops.serving import drift_app
from src.mlops.serving.drift_app import create_app
from src.mlops.serving.settings import DriftSettings
from tests.helpers.service import ADMIN, assert_problem
from tests.helpers.traffic import baseline, records, write_log, write_model


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    path = tmp_path_factory.mktemp("model") / "best_model.onnx"
    return path, write_model(path, baseline())


@pytest.fixture
def settings(given: tuple[Path, Model], tmp_path: Path) -> DriftSettings:
    frame = records(500).assign(image=None)
    frame.loc[200:, "noise"] += 2
    frame.loc[[10, 300], "image"] = ["images/a.png", "images/expired.png"]
    log = write_log(tmp_path / "log", frame, given[1])
    (tmp_path / "log" / "images").mkdir()
    (tmp_path / "log" / "images" / "a.png").write_bytes(b"PNG")
    return DriftSettings(log_url=log, model=str(given[0]), token=SecretStr("secret"))


@pytest.fixture
def client(settings: DriftSettings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), headers=ADMIN) as client:
        yield client


def test_a_report(client: TestClient) -> None:
    report = client.post("/drift").json()
    assert (report["drift"], report["baseline"]["name"], report["window"]["images"]) == (True, "reference", 500)
    assert report["findings"][0]["kind"] == "camera"
    page = client.get("/drift")
    assert "The camera changed" in page.text
    assert "data:image/png;base64,UE5H" in page.text
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    metrics = client.get("/metrics").text
    assert re.search(
        r'^mlops_drift_alarm\{baseline="reference",kind="camera",model_version="\w+"\} 1.0$', metrics, re.M
    )
    assert 'mlops_requests_total{route="/drift",status="200"}' in metrics
    assert client.get("/health/live").json() == {"status": "alive"}


def test_a_trailing_slash_makes_no_difference(client: TestClient) -> None:
    assert client.post("/drift/", follow_redirects=False).status_code == 200
    assert client.get("/drift/", follow_redirects=False).text == client.get("/drift").text
    assert client.get("/drift/", headers={"Authorization": ""}).status_code == 401
    assert client.get("/metrics/").status_code == client.get("/health/live/").status_code == 200


def test_the_page_may_use_its_own_style_and_images_only(client: TestClient) -> None:
    client.post("/drift")
    policy = client.get("/drift").headers["content-security-policy"].split("; ")
    assert policy[0] == "default-src 'none'"
    assert {"style-src 'unsafe-inline'", "img-src data:"} <= set(policy)
    assert not [part for part in policy if part.startswith("script-src")]


def test_a_window(client: TestClient) -> None:
    body = {"window": "/2026-11-30T00:10Z", "baseline": "reference", "cluster_seconds": 0}
    assert client.post("/drift", json=body).json()["window"]["images"] == 60


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"window": "tomorrow"}, "'tomorrow' is neither `all`"),
        ({"window": 24}, "window: Input should be a valid string"),
        ({"window": "/2020-01-01T00:00Z"}, "contains no records"),
        ({"baseline": "2020-01-01T00:00:00Z"}, "There is no baseline '2020-01-01T00:00:00Z'"),
        ({"baseline": "../other.npz"}, "baseline: String should match pattern"),
        ({"baseline": "/etc/passwd"}, "baseline: String should match pattern"),
        ({"cluster_seconds": -1}, "cluster_seconds: Input should be greater than or equal to 0"),
        ({"cluster_seconds": "NaN"}, "cluster_seconds: Input should be a finite number"),
        ({"log": "gs://other"}, "log: Extra inputs are not permitted"),
        ([], "The request is not valid"),
    ],
)
def test_an_invalid_request(body: Any, message: str, client: TestClient) -> None:
    assert_problem(client.post("/drift", json=body), 422, message)
    assert_problem(client.get("/drift"), 404, "POST /drift")
    assert client.post("/drift").status_code == 200


def test_no_json(client: TestClient) -> None:
    assert_problem(client.post("/drift", content=b"{", headers={"Content-Type": "application/json"}), 422, "JSON")


def test_a_large_request(client: TestClient) -> None:
    assert_problem(client.post("/drift", json={"window": "x" * 70_000}), 413, "65,536 bytes")


def test_no_log(settings: DriftSettings, tmp_path: Path) -> None:
    nowhere = settings.model_copy(update={"log_url": str(tmp_path / "none")})
    with TestClient(create_app(nowhere), headers=ADMIN) as client:
        assert_problem(client.post("/drift"), 422, "contains no records in the window all")


def test_an_unreachable_log(settings: DriftSettings, tmp_path: Path) -> None:
    with TestClient(create_app(settings.model_copy(update={"log_url": "s3://log"})), headers=ADMIN) as client:
        assert_problem(client.post("/drift"), 503, "s3://log")


def test_no_model(settings: DriftSettings, tmp_path: Path) -> None:
    missing = settings.model_copy(update={"model": str(tmp_path / "none.onnx")})
    with TestClient(create_app(missing), headers=ADMIN) as client:
        assert_problem(client.post("/drift"), 503, "none.onnx")


def test_a_model_without_a_reference(settings: DriftSettings, tmp_path: Path) -> None:
    writer = write_model(tmp_path / "plain.onnx", None)
    shutil.rmtree(settings.log_url)
    log = write_log(Path(settings.log_url), records(300), writer)
    plain = settings.model_copy(update={"model": str(tmp_path / "plain.onnx"), "log_url": log})
    with TestClient(create_app(plain), headers=ADMIN) as client:
        assert_problem(client.post("/drift"), 422, "contains no reference")


def test_a_damaged_baseline(settings: DriftSettings, given: tuple[Path, Model], client: TestClient) -> None:
    folder = Path(settings.log_url) / "baselines" / given[1].version
    folder.mkdir(parents=True)
    (folder / "2025-11-30T060000Z.npz").write_bytes(b"PK")
    assert_problem(client.post("/drift"), 422, "2025-11-30T060000Z.npz is corrupted")
    assert client.post("/drift", json={"baseline": "reference"}).status_code == 200


def test_the_last_report_stays_after_an_error(client: TestClient) -> None:
    client.post("/drift")
    client.post("/drift", json={"window": "tomorrow"})
    assert "The camera changed" in client.get("/drift").text


@pytest.mark.parametrize("given_token", [None, "Bearer wrong", "Basic secret"])
def test_the_token(given_token: str | None, settings: DriftSettings) -> None:
    headers = {"Authorization": given_token} if given_token else {}
    with TestClient(create_app(settings), headers=headers) as client:
        assert_problem(client.post("/drift"), 401, "token is missing or wrong")
        assert_problem(client.post("/drift", json={"window": 3}), 401, "token is missing or wrong")
        assert_problem(client.get("/drift"), 401, "token is missing or wrong")
        for public in ("/metrics", "/health/live", "/openapi.json"):
            assert client.get(public).status_code == 200


def test_one_computation_at_a_time(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    started, may_end = threading.Event(), threading.Event()
    compute = drift_app.drift

    def slow(*arguments: Any) -> Report:
        started.set()
        assert may_end.wait(20)
        return compute(*arguments)

    monkeypatch.setattr(drift_app, "drift", slow)
    answers: list[int] = []
    first = threading.Thread(target=lambda: answers.append(client.post("/drift").status_code))
    first.start()
    assert started.wait(20)
    second = client.post("/drift")
    assert_problem(second, 409, "Another report")
    assert second.headers["retry-after"]
    assert client.get("/health/live").status_code == 200  # the others answer meanwhile
    may_end.set()
    first.join(20)
    assert answers == [200]
    assert client.post("/drift").status_code == 200


def test_an_unexpected_error(settings: DriftSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_app, "drift", lambda *_: 1 / 0)
    with TestClient(create_app(settings), headers=ADMIN, raise_server_exceptions=False) as client:
        for _ in range(2):  # the first one does not leave the service busy
            response = client.post("/drift")
            assert_problem(response, 500, "server logs")
            assert "division" not in response.text


def test_the_openapi_document(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert "Problem" in document["components"]["schemas"]
    assert document["paths"]["/drift"]["post"]["security"] == [{"admin": []}]
    assert set(document["paths"]["/drift"]["post"]["responses"]) == {"200", "401", "409", "413", "422", "503"}
    assert "image" not in str(document["paths"]["/drift"]["post"])


class TestSettings:
    def test_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLOPS_DRIFT_LOG_URL", "gs://bucket/log")
        monkeypatch.setenv("MLOPS_DRIFT_TOKEN", "secret")
        monkeypatch.setenv("MLOPS_MODEL", "of/the/service.onnx")
        settings = DriftSettings()  # type: ignore[call-arg]
        assert (settings.log_url, settings.model, settings.port) == ("gs://bucket/log", "latest", 8002)
        assert settings.as_environment()["MLOPS_DRIFT_TOKEN"] == "secret"
        assert "secret" not in repr(settings)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "log_url: this key is missing"),
            ({"log_url": "log"}, "token: this key is missing"),
            ({"log_url": "log", "token": " "}, "token: must contain at least one key, in ASCII characters only"),
            ({"log_url": "", "token": "secret"}, "log_url: String should have at least 1 character"),
            ({"log_url": "s3://bucket", "token": "secret"}, "log_url: must be a folder, or a URL such as gs://"),
        ],
    )
    def test_invalid(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError) as caught:
            DriftSettings(**options)
        described = describe(caught.value)
        assert any(line.startswith(message) for line in described)
        assert "unset" not in str(described)
