"""The smoke test of a service, and reading secrets, each with a local server."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import google.auth
import pytest
from google.auth.exceptions import DefaultCredentialsError

from src.mlops.cloud.smoke_test import smoke
from src.mlops.errors import CloudError, ServiceError
from src.mlops.io import secret_manager as secrets
from src.mlops.io.secret_manager import read_secret

GOOD = {"predicted_class": 3, "probability": 0.5, "model_version": "abc"}
Answers = dict[str, Callable[[bytes], tuple[int, object]]]
Serve = Callable[[Answers], str]


def classify(body: bytes) -> tuple[int, object]:
    return (415, {}) if b"no image" in body else (200, GOOD)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Returns a function that starts a server with one answer per path and returns its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(answers: Answers) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, answer = answers[self.path](body + str(self.headers).encode())
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815 - name required by the base class

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_service_that_works(serve: Serve) -> None:
    url = serve({"/health/ready": lambda _: (200, {}), "/cv_model/": classify})
    assert smoke(url) == "abc"


def test_the_token_is_sent(serve: Serve) -> None:
    def needs_token(body: bytes) -> tuple[int, object]:
        return classify(body) if b"Bearer secret" in body else (403, {})

    url = serve({"/health/ready": lambda _: (200, {}), "/cv_model/": needs_token})
    assert smoke(url, {"Authorization": "Bearer secret"}) == "abc"
    with pytest.raises(ServiceError, match=r"403.*run\.routes\.invoke.*inv gcp\.bootstrap"):
        smoke(url)


def test_the_smoke_test_waits_for_the_service(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda _: None))
    states = iter([503, 503, 200])
    url = serve({"/health/ready": lambda _: (next(states), {}), "/cv_model/": classify})
    assert smoke(url) == "abc"


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"/health/ready": lambda _: (503, {})}, "503"),
        ({"/health/ready": lambda _: (200, {}), "/cv_model/": lambda _: (500, {})}, "500"),
        ({"/health/ready": lambda _: (200, {}), "/cv_model/": lambda _: (200, GOOD)}, r"415.* 200\b"),
        (
            {"/health/ready": lambda _: (200, {}), "/cv_model/": lambda _: (200, {"predicted_class": 99})},
            "predicted_class.*99",
        ),
    ],
)
def test_a_service_that_does_not_work(serve: Serve, answers: Answers, message: str) -> None:
    with pytest.raises(ServiceError, match=message):
        smoke(serve(answers), patience=0)


def test_no_server() -> None:
    with pytest.raises(ServiceError, match=r"http://127\.0\.0\.1:9 "):
        smoke("http://127.0.0.1:9", patience=0)


class TestSecret:
    PATH = "/projects/p/secrets/key/versions/latest:access"

    @pytest.fixture(autouse=True)
    def _account(self, monkeypatch: pytest.MonkeyPatch) -> None:
        account = SimpleNamespace(token="of-the-job", refresh=lambda _: None)
        monkeypatch.setattr(google.auth, "default", lambda _: (account, None))

    def test_a_secret_is_read(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        def answer(body: bytes) -> tuple[int, object]:
            assert b"Bearer of-the-job" in body
            return 200, {"payload": {"data": base64.b64encode(b"word").decode()}}

        monkeypatch.setattr(secrets, "URL", serve({self.PATH: answer}) + "/")
        assert read_secret("projects/p/secrets/key") == "word"

    def test_a_missing_secret(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(secrets, "URL", serve({self.PATH: lambda _: (404, {})}) + "/")
        with pytest.raises(CloudError, match=r"'read the secret'.*p/secrets/key.*404.*gcloud secrets versions add"):
            read_secret("projects/p/secrets/key")

    def test_no_account(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def none(_: object) -> None:
            raise DefaultCredentialsError("nobody is logged in")  # type: ignore[no-untyped-call]

        monkeypatch.setattr(google.auth, "default", none)
        with pytest.raises(CloudError, match="nobody is logged in"):
            read_secret("projects/p/secrets/key")
