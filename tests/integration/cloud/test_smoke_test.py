"""The smoke test of a running service, and reading secrets, each against a server on this machine."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import google.auth
import pytest
from google.auth.exceptions import DefaultCredentialsError

from src.mlops import secrets
from src.mlops.errors import CloudError, ServiceError
from src.mlops.secrets import read_secret
from src.mlops.smoke import smoke

GOOD = {"predicted_class": 3, "probability": 0.5, "model_version": "abc"}
Answers = dict[str, Callable[[bytes], tuple[int, object]]]
Serve = Callable[[Answers], str]


def classify(body: bytes) -> tuple[int, object]:
    return (415, {}) if b"no picture" in body else (200, GOOD)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server whose answers are given by path; returns its address."""
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

            do_POST = do_GET  # noqa: N815 - likewise

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
    assert smoke(url, "secret") == "abc"
    with pytest.raises(ServiceError, match="403"):
        smoke(url)


def test_it_is_waited_for(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda _: None))
    states = iter([503, 503, 200])
    url = serve({"/health/ready": lambda _: (next(states), {}), "/cv_model/": classify})
    assert smoke(url) == "abc"


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"/health/ready": lambda _: (503, {})}, "503"),
        ({"/health/ready": lambda _: (200, {}), "/cv_model/": lambda _: (500, {})}, "500"),
        ({"/health/ready": lambda _: (200, {}), "/cv_model/": lambda _: (200, GOOD)}, "415 for what is no picture"),
        ({"/health/ready": lambda _: (200, {}), "/cv_model/": lambda _: (200, {"predicted_class": 99})}, "found .*99"),
    ],
)
def test_a_service_that_does_not(serve: Serve, answers: Answers, message: str) -> None:
    with pytest.raises(ServiceError, match=message):
        smoke(serve(answers), patience=0)


def test_nobody_listens() -> None:
    with pytest.raises(ServiceError, match=r"expected http://127\.0\.0\.1:9 to answer"):
        smoke("http://127.0.0.1:9", patience=0)


class TestSecret:
    PATH = "/projects/p/secrets/key/versions/latest:access"

    @pytest.fixture(autouse=True)
    def _account(self, monkeypatch: pytest.MonkeyPatch) -> None:
        account = SimpleNamespace(token="of-the-job", refresh=lambda _: None)
        monkeypatch.setattr(google.auth, "default", lambda _: (account, None))

    def test_is_read(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        def answer(body: bytes) -> tuple[int, object]:
            assert b"Bearer of-the-job" in body
            return 200, {"payload": {"data": base64.b64encode(b"word").decode()}}

        monkeypatch.setattr(secrets, "URL", serve({self.PATH: answer}) + "/")
        assert read_secret("projects/p/secrets/key") == "word"

    def test_is_absent(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(secrets, "URL", serve({self.PATH: lambda _: (404, {})}) + "/")
        with pytest.raises(CloudError, match=r"step 'read the secret': .*404.*gcloud secrets versions add"):
            read_secret("projects/p/secrets/key")

    def test_no_account(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def none(_: object) -> None:
            raise DefaultCredentialsError("nobody is logged in")  # type: ignore[no-untyped-call]

        monkeypatch.setattr(google.auth, "default", none)
        with pytest.raises(CloudError, match="nobody is logged in"):
            read_secret("projects/p/secrets/key")
