"""Tests that every route needs an API key unless it is public, below every path prefix."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.testclient import TestClient
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from src.mlops.errors import ConfigError
from src.mlops.serving.app import create_app
from src.mlops.serving.settings import Settings
from tests.helpers.service import ADMIN, assert_problem

PUBLIC = (
    "/", "/docs", "/docs/", "/review", "/review/", "/openapi.json", "/health/live", "/health/ready", "/metrics",
    "/static/page.js",
)  # fmt: skip
PROTECTED = (
    ("POST", "/cv_model/"),
    ("POST", "/cv_model"),
    ("POST", "/cv_model/batch"),
    ("POST", "/cv_model/explain"),
    ("POST", "/cv_model/explain/"),
    ("GET", "/model"),
    ("GET", "/model/"),
    ("HEAD", "/model"),
    ("GET", "/added"),
    ("GET", "/admin/added"),
    ("GET", "/health/added"),
    ("GET", "/router/added"),
)
KEY = {"X-API-Key": "secret-key"}


def with_added_routes(settings: Settings) -> FastAPI:
    """Returns the application with routes that an engineer adds in the ways that FastAPI documents."""
    app = create_app(settings)
    router = APIRouter(prefix="/router")

    @app.get("/added")
    @app.get("/admin/added")
    @app.get("/health/added")
    @router.get("/added")
    async def added(number: int = 1) -> dict[str, int]:
        return {"number": number}

    app.include_router(router)
    return app


@pytest.fixture(scope="module", params=["", "/api", "/admin/signs", "/health/live", "/docs"])
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["kept by the proxy", "removed by the proxy", "mounted"])
def client(request: pytest.FixtureRequest, prefix: str) -> Iterator[TestClient]:
    app = with_added_routes(Settings(model="none", api_keys=SecretStr("secret-key"), admin_token=SecretStr("secret")))
    if request.param == "mounted":
        parent = Starlette(routes=[Mount(prefix, app)])
        client = TestClient(parent, base_url=f"http://test{prefix}/")
    else:
        path = prefix if request.param == "kept by the proxy" else ""
        client = TestClient(app, root_path=prefix, base_url=f"http://test{path}/")
    with client:
        yield client


def test_protected_routes_need_a_key(client: TestClient) -> None:
    for method, path in PROTECTED:
        for headers in ({}, {"X-API-Key": "wrong"}, ADMIN):
            answer = client.request(method, path.lstrip("/"), headers=headers)
            assert answer.status_code == 401, (method, path, headers)
        allowed = client.request(method, path.lstrip("/"), headers=KEY)
        assert allowed.status_code in (200, 500), (method, path)  # 500: no model is loaded


def test_public_routes_need_no_key(client: TestClient) -> None:
    for path in PUBLIC:
        answer = client.get(path.lstrip("/"))
        assert answer.status_code == (503 if path == "/health/ready" else 200), path


def test_administration_needs_its_token_and_no_key(client: TestClient) -> None:
    assert client.post("admin/reload", headers=KEY).status_code == 401
    assert client.post("admin/reload", headers=ADMIN).status_code == 409


def test_an_added_route_works_like_in_every_application() -> None:
    with TestClient(with_added_routes(Settings(model="none"))) as client:
        assert client.get("/added?number=7").json() == {"number": 7}
        assert_problem(client.get("/added?number=x"), 422, "number")
        assert "/added" in client.get("/openapi.json").json()["paths"]


def test_websockets_need_a_key() -> None:
    app = create_app(Settings(model="none", api_keys=SecretStr("a")))

    @app.websocket("/socket")
    async def socket(connection: WebSocket) -> None:
        await connection.accept()
        await connection.send_text("hello")

    with TestClient(app) as client:
        with client.websocket_connect("/socket", headers={"X-API-Key": "a"}) as connection:
            assert connection.receive_text() == "hello"
        with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("/socket"):
            pass
        assert "API key" in refused.value.reason


def mount(app: FastAPI) -> None:
    app.mount("/added", FastAPI())


def add_route(app: FastAPI) -> None:
    app.router.routes.append(Route("/added", lambda _: PlainTextResponse("")))


def add_websocket_route(app: FastAPI) -> None:
    app.router.routes.append(WebSocketRoute("/added", lambda _: None))


def include_mount(app: FastAPI) -> None:
    router = APIRouter()
    router.mount("/added", FastAPI())
    app.include_router(router)


def include_route(app: FastAPI) -> None:
    router, parent = APIRouter(), APIRouter()
    router.add_route("/added", lambda _: PlainTextResponse(""))
    parent.include_router(router)
    app.include_router(parent)


def append_route(app: FastAPI) -> None:
    router = APIRouter()
    router.add_api_route("/added", lambda: "")
    app.router.routes.extend(router.routes)


@pytest.mark.parametrize(
    "add",
    [mount, add_route, add_websocket_route, include_mount, include_route, append_route],
    ids=lambda add: add.__name__,
)
def test_routes_without_dependencies_are_refused(add: Callable[[FastAPI], None]) -> None:
    app = create_app(Settings(model="none", api_keys=SecretStr("a")))
    add(app)
    with pytest.raises(ConfigError, match="The route /added would need no API key"), TestClient(app):
        pass
    unprotected = create_app(Settings(model="none", rate_limit="5/minute"))
    add(unprotected)
    with TestClient(unprotected) as client:
        assert client.get("/health/live").status_code == 200


def test_an_application_for_a_host_is_refused() -> None:
    app = create_app(Settings(model="none", api_keys=SecretStr("a")))
    app.host("files.example", FastAPI())
    with pytest.raises(ConfigError, match=r"files\.example.* would need no API key"), TestClient(app):
        pass


def test_an_application_next_to_the_service_needs_no_key(exported: Path) -> None:
    signs = create_app(Settings(model=str(exported), api_keys=SecretStr("a")))
    app = FastAPI(lifespan=signs.router.lifespan_context)
    app.mount("/files", Starlette(routes=[Route("/added", lambda _: PlainTextResponse(""))]))
    app.mount("/signs", signs)
    with TestClient(app) as client:
        assert client.get("/files/added").status_code == 200
        assert client.get("/signs/model").status_code == 401
        assert client.get("/signs/model", headers={"X-API-Key": "a"}).status_code == 200


def test_the_openapi_document_names_the_key_of_protected_routes() -> None:
    document = create_app(Settings(model="none", api_keys=SecretStr("a"))).openapi()
    assert document["paths"]["/model"]["get"]["security"] == [{"key": []}]
    assert "security" not in document["paths"]["/health/live"]["get"]
    assert document["paths"]["/admin/reload"]["post"]["security"] == [{"admin": []}]
    assert set(document["components"]["securitySchemes"]) == {"key", "admin"}
