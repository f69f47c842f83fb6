"""The service through HTTP: good pictures, bad pictures, no model, a port in use."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from src.mlops import ROOT
from src.mlops.api import create_app
from src.mlops.data.signs import SIGNS
from src.mlops.inference import Classifier
from src.mlops.service_process import _free_port
from src.mlops.serving.processes import listen
from src.mlops.serving.settings import Settings
from tests.conftest import picture
from tests.unit.test_preprocessing import encode, png_header

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
        (encode(picture(0), "GIF", save_all=True, append_images=[picture(1)]), 422, "2 frames"),
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


def test_endless_body_is_cut_off(client: TestClient) -> None:
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        for _ in range(1000):
            sent += 10_000
            yield b"\0" * 10_000

    response = client.post("/cv_model/", content=body(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert response.status_code == 413


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


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_MODEL", "some/model.pth")
    monkeypatch.setenv("MLOPS_MAX_UPLOAD_BYTES", "1")
    assert (Settings().model, Settings().max_upload_bytes) == ("some/model.pth", 1)


def test_uvicorn_finds_the_application() -> None:
    from uvicorn.importer import import_from_string

    assert import_from_string("src.mlops.api:app").title == "German traffic signs"


def test_answers_are_not_held_back() -> None:
    with listen(Settings(port=_free_port())) as listener:
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
        str(_free_port()),
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
