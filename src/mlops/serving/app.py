"""The service: pictures in, answers out. `uvicorn src.mlops.api:app`, or `inv api`."""

import asyncio
import hmac
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from pydantic_core import to_json
from pydantic_settings import CliApp
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from src.mlops.errors import CheckpointError, ImageError, MlopsError, ServiceError, describe, report
from src.mlops.serving import metrics, problems
from src.mlops.serving.answers import EXAMPLE, REFUSED_EXAMPLE, Answer, BatchAnswer, Health, ModelAnswer, Refused
from src.mlops.serving.engine import Engine, tell_other_workers
from src.mlops.serving.guards import Guard, header
from src.mlops.serving.logs import set_up
from src.mlops.serving.processes import run
from src.mlops.serving.settings import Settings
from src.mlops.serving.uploads import Inflow, Upload, too_large

AT_ONCE = 4  # pictures of one batch request that are in the queue at the same time
PAGE = Path(__file__).parent / "serving" / "page"


def create_app(settings: Settings | None = None) -> FastAPI:
    """Builds the application; the model is loaded when it starts.

    Args:
        settings: None reads them from the environment.
    """
    settings = settings or Settings()
    engine = Engine(settings)
    inflow = Inflow(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with engine.serving():
            yield

    app = FastAPI(
        title="German traffic signs",
        description="Classifies a picture of one traffic sign into the 43 classes of GTSRB, and says when it is none.",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # below, without anything from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # to an address that a proxy in front would not know
        # Traces and metrics go where OpenTelemetry's standard variables say; without them none are made.
        telemetry={"auto_configure": True, "operation_spans": False, "logs": False},
    )
    app.router.route_class = _LeanRoute
    problems.install(app)
    if origins := settings.listed(settings.cors_origins):
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["X-API-Key"]
        )
    app.add_middleware(Guard, settings=settings)  # the last one added is the outermost

    @app.post("/cv_model", include_in_schema=False)
    @app.post(
        "/cv_model/",
        response_model=Answer,
        responses=problems.documented(400, 401, 408, 413, 415, 422, 431, 500, 503, success=_example(EXAMPLE)),
        openapi_extra=_body(_form("file", _IMAGE) | _RAW),
    )
    async def classify(request: Request) -> Response:
        """Classifies one picture (BMP, GIF, JPEG, PNG, PPM, TIFF or WebP): a form, or the picture as the body."""
        engine.require()
        async with inflow.picture(request) as upload:
            return _json(Answer.of(await engine.classify(upload.content), upload.filename))

    @app.post(
        "/cv_model/batch",
        response_model=BatchAnswer,
        responses=problems.documented(
            400, 401, 408, 413, 422, 431, 500, 503, success=_example({"results": [EXAMPLE, REFUSED_EXAMPLE]})
        ),
        openapi_extra=_body(_form("files", {"type": "array", "items": _IMAGE, "minItems": 1})),
    )
    async def classify_several(request: Request) -> Response:
        """Classifies several pictures; one that cannot be used has an error in its place."""
        engine.require()

        async def answer(upload: Upload) -> Answer | Refused:
            if len(upload.content) > settings.max_upload_bytes:
                return Refused(upload.filename, too_large(settings.max_upload_bytes), 413)
            try:
                return Answer.of(await engine.classify(upload.content), upload.filename)
            except ImageError as error:
                return Refused(upload.filename, str(error), problems.status_of(error))

        results: list[Answer | Refused] = []
        async with inflow.pictures(request) as uploads:
            for start in range(0, len(uploads), AT_ONCE):
                results += await asyncio.gather(*map(answer, uploads[start : start + AT_ONCE]))
        return _json(BatchAnswer(results))

    @app.post(
        "/cv_model/explain",
        response_class=Response,
        responses=problems.documented(400, 401, 408, 413, 415, 422, 431, 500, 501, 503, success=_RAW),
        openapi_extra=_body(_form("file", _IMAGE) | _RAW),
    )
    async def explain(request: Request) -> Response:
        """Lays what decided over one picture, as a PNG: yellow counted most, red less."""
        engine.require()
        async with inflow.picture(request) as upload:
            try:
                return Response(await engine.explain(upload.content), media_type="image/png")
            except CheckpointError as error:
                raise HTTPException(501, str(error)) from error

    @app.get("/model", response_model=ModelAnswer, responses=problems.documented(401, 500))
    async def model(_: Request) -> Response:
        """Tells what is served: version, intended use, classes, calibration, provenance."""
        return _json(ModelAnswer.of(engine.require()))

    @app.get("/health/live", response_model=Health)
    async def live(_: Request) -> Response:
        """Answers as long as the process does."""
        return _json({"status": "alive"})

    @app.get("/health/ready", response_model=Health, responses=problems.documented(503))
    async def ready(_: Request) -> Response:
        """Answers 200 only when a model is loaded, so that traffic comes when it can be answered."""
        if engine.classifier is None:
            raise HTTPException(503, problems.NOT_LOADED, {"Retry-After": problems.RETRY_AFTER})
        return _json({"status": "ready", "model_version": engine.classifier.version})

    @app.post(
        "/admin/reload",
        response_model=Health,
        responses=problems.documented(401, 409),
        openapi_extra={"security": [{"admin": []}]},
    )
    async def reload(request: Request) -> Response:
        """Swaps in the model as it is on disk now; a bad one is refused and the former one goes on.

        With several workers the others follow within seconds.
        """
        expected = settings.admin_token.get_secret_value() if settings.admin_token else ""
        given = header(request.scope, b"authorization")
        if not (expected and hmac.compare_digest(given, b"Bearer " + expected.encode())):
            raise HTTPException(
                401, "expected the admin's token as `Authorization: Bearer …`", {"WWW-Authenticate": "Bearer"}
            )
        try:
            classifier = await engine.reload()
        except MlopsError as error:
            raise HTTPException(409, "The new model is refused, the former one goes on. The log says why.") from error
        tell_other_workers()
        return _json({"status": "ready", "model_version": classifier.version})

    @app.get("/metrics", response_class=PlainTextResponse)
    async def figures(_: Request) -> Response:
        """What Prometheus reads."""
        return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)

    @app.get("/", include_in_schema=False)
    async def page(_: Request) -> Response:
        """The page to try the model."""
        return FileResponse(PAGE / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs(_: Request) -> Response:
        """The interface's documentation."""
        return FileResponse(PAGE / "docs.html")

    app.mount("/static/swagger", StaticFiles(directory=_swagger()))
    app.mount("/static", StaticFiles(directory=PAGE))
    app.openapi = lambda: _complete(app)  # type: ignore[method-assign]
    return app


class _LeanRoute(APIRoute):
    """A route whose function reads the request and makes the response itself.

    FastAPI describes it, but solves no parameters and validates no answer; that took longer than a small network.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        try:
            response = await self.endpoint(Request(scope, receive))
        except ClientDisconnect:
            return  # nobody waits for an answer
        await response(scope, receive, send)


_IMAGE = {"type": "string", "format": "binary"}
_RAW = {"image/png": {"schema": _IMAGE}}  # any image/* type


def _json(answer: Any) -> Response:
    return Response(to_json(answer), media_type="application/json")


def _example(value: Any) -> dict[str, Any]:
    return {"application/json": {"example": value}}


def _form(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    form = {"type": "object", "required": [name], "properties": {name: schema}}
    return {"multipart/form-data": {"schema": form}}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def _complete(app: FastAPI) -> dict[str, Any]:
    """Makes the OpenAPI document, with the schemas that FastAPI cannot know of."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = document["components"]
        components["schemas"]["Problem"] = problems.SCHEMA
        components["securitySchemes"] = {
            "key": {
                "type": "apiKey",
                "in": "header",
                "name": "X-API-Key",
                "description": "where MLOPS_API_KEYS is set",
            },
            "admin": {"type": "http", "scheme": "bearer", "description": "MLOPS_ADMIN_TOKEN"},
        }
        document["security"] = [{}, {"key": []}]
        app.openapi_schema = document
    return app.openapi_schema


def _swagger() -> Path:
    """Finds Swagger UI's files, without running the package that brings them."""
    found = importlib.util.find_spec("fastapi_offline")
    assert found is not None  # noqa: S101 - a dependency
    assert found.origin is not None  # noqa: S101
    return Path(found.origin).parent / "static"


def main() -> None:
    """Starts the service from the command line."""
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        report(ServiceError(f"{'; '.join(describe(error))}. `python -m src.mlops.api --help` tells what is expected."))
    set_up(settings.log_format, settings.log_level)
    try:
        run(settings, create_app)
    except ServiceError as error:
        report(error)


def __getattr__(name: str) -> FastAPI:
    # `uvicorn src.mlops.api:app` finds the application here; importing the module builds nothing.
    if name == "app":
        settings = Settings()
        set_up(settings.log_format, settings.log_level)  # workers come this way too
        return create_app(settings)
    raise AttributeError(name)


if __name__ == "__main__":
    main()
