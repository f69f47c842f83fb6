"""The FastAPI application and its routes."""

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
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from src.mlops.errors import CheckpointError, ImageError, MlopsError
from src.mlops.serving import errors, prometheus
from src.mlops.serving.batcher import Batcher
from src.mlops.serving.middleware import Guard, header
from src.mlops.serving.model_holder import ModelHolder, tell_other_workers
from src.mlops.serving.schemas import EXAMPLE, REFUSED_EXAMPLE, Answer, BatchAnswer, Health, ModelAnswer, Refused
from src.mlops.serving.settings import Settings
from src.mlops.serving.uploads import Inflow, Upload, too_large

AT_ONCE = 4  # images of one batch request that can be in the queue at the same time
PAGE = Path(__file__).parent / "page"


def create_app(settings: Settings | None = None) -> FastAPI:
    """Builds the application. It loads the model at startup.

    Args:
        settings: The settings of the service; None reads them from the environment.

    Returns:
        The application.
    """
    settings = settings or Settings()
    models = ModelHolder(settings)
    batcher = Batcher(settings, models)
    inflow = Inflow(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with models.serving():
            yield
        batcher.close()

    app = FastAPI(
        title="German traffic signs",
        description="Classifies an image of one traffic sign into the 43 classes of GTSRB and detects unknown signs.",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # the route below serves Swagger UI without files from other hosts
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy, the redirect would point to an internal address
        # OpenTelemetry's standard variables set the target of traces and metrics. Without them nothing is exported.
        telemetry={"auto_configure": True, "operation_spans": False, "logs": False},
    )
    app.router.route_class = _LeanRoute
    errors.install(app)
    if origins := settings.listed(settings.cors_origins):
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["X-API-Key"]
        )
    app.add_middleware(Guard, settings=settings)  # the middleware added last is the outermost

    @app.post("/cv_model", include_in_schema=False)
    @app.post(
        "/cv_model/",
        response_model=Answer,
        responses=errors.documented(400, 401, 408, 413, 415, 422, 431, 500, 503, success=_example(EXAMPLE)),
        openapi_extra=_body(_form("file", _IMAGE) | _RAW),
    )
    async def classify(request: Request) -> Response:
        """Classifies one image (BMP, GIF, JPEG, PNG, PPM, TIFF or WebP), sent in a form or as the body."""
        models.require()
        async with inflow.image(request) as upload:
            return _json(Answer.of(await batcher.classify(upload.content), upload.filename))

    @app.post(
        "/cv_model/batch",
        response_model=BatchAnswer,
        responses=errors.documented(
            400, 401, 408, 413, 422, 431, 500, 503, success=_example({"results": [EXAMPLE, REFUSED_EXAMPLE]})
        ),
        openapi_extra=_body(_form("files", {"type": "array", "items": _IMAGE, "minItems": 1})),
    )
    async def classify_several(request: Request) -> Response:
        """Classifies several images. The result of an image that cannot be used is an error."""
        models.require()

        async def answer(upload: Upload) -> Answer | Refused:
            if len(upload.content) > settings.max_upload_bytes:
                return Refused(upload.filename, too_large(settings.max_upload_bytes), 413)
            try:
                return Answer.of(await batcher.classify(upload.content), upload.filename)
            except ImageError as error:
                return Refused(upload.filename, str(error), errors.status_of(error))

        results: list[Answer | Refused] = []
        async with inflow.images(request) as uploads:
            for start in range(0, len(uploads), AT_ONCE):
                results += await asyncio.gather(*map(answer, uploads[start : start + AT_ONCE]))
        return _json(BatchAnswer(results))

    @app.post(
        "/cv_model/explain",
        response_class=Response,
        responses=errors.documented(400, 401, 408, 413, 415, 422, 431, 500, 501, 503, success=_RAW),
        openapi_extra=_body(_form("file", _IMAGE) | _RAW),
    )
    async def explain(request: Request) -> Response:
        """Returns the saliency map of one image as a PNG. Yellow marks the strongest evidence, red weaker evidence."""
        models.require()
        async with inflow.image(request) as upload:
            try:
                return Response(await batcher.explain(upload.content), media_type="image/png")
            except CheckpointError as error:
                raise HTTPException(501, str(error)) from error

    @app.get("/model", response_model=ModelAnswer, responses=errors.documented(401, 500))
    async def model(_: Request) -> Response:
        """Returns the version, intended use, classes, calibration and provenance of the model."""
        return _json(ModelAnswer.of(models.require()))

    @app.get("/health/live", response_model=Health)
    async def live(_: Request) -> Response:
        """Returns 200 while the process runs."""
        return _json({"status": "alive"})

    @app.get("/health/ready", response_model=Health, responses=errors.documented(503))
    async def ready(_: Request) -> Response:
        """Returns 200 if a model is loaded and the service can receive traffic."""
        if models.classifier is None:
            raise HTTPException(503, errors.NOT_LOADED, {"Retry-After": errors.RETRY_AFTER})
        return _json({"status": "ready", "model_version": models.classifier.version})

    @app.post(
        "/admin/reload",
        response_model=Health,
        responses=errors.documented(401, 409),
        openapi_extra={"security": [{"admin": []}]},
    )
    async def reload(request: Request) -> Response:
        """Loads the model file again. If the new model cannot be used, the previous one stays in service.

        With several workers, the other workers load it within seconds.
        """
        expected = settings.admin_token.get_secret_value() if settings.admin_token else ""
        given = header(request.scope, b"authorization")
        if not (expected and hmac.compare_digest(given, b"Bearer " + expected.encode())):
            raise HTTPException(
                401,
                "The admin token is missing or wrong. Send it in the header `Authorization: Bearer TOKEN`.",
                {"WWW-Authenticate": "Bearer"},
            )
        try:
            classifier = await models.reload()
        except MlopsError as error:
            raise HTTPException(
                409, "The new model cannot be used. The previous model remains in service. See the log for the reason."
            ) from error
        tell_other_workers()
        return _json({"status": "ready", "model_version": classifier.version})

    @app.get("/metrics", response_class=PlainTextResponse)
    async def figures(_: Request) -> Response:
        """Returns the metrics in Prometheus' text format."""
        return Response(prometheus.exposition(), media_type=prometheus.CONTENT_TYPE)

    @app.get("/", include_in_schema=False)
    async def page(_: Request) -> Response:
        """Returns the web page for trying the model."""
        return FileResponse(PAGE / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs(_: Request) -> Response:
        """Returns the API documentation."""
        return FileResponse(PAGE / "docs.html")

    app.mount("/static/swagger", StaticFiles(directory=_swagger()))
    app.mount("/static", StaticFiles(directory=PAGE))
    app.openapi = lambda: _complete(app)  # type: ignore[method-assign]
    return app


class _LeanRoute(APIRoute):
    """A route whose function reads the request and builds the response itself.

    FastAPI only documents the route. Parsing parameters and validating responses took longer than a small network.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        try:
            response = await self.endpoint(Request(scope, receive))
        except ClientDisconnect:
            return  # the client closed the connection, so there is nobody to answer
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
    """Returns the OpenAPI document, with the schemas that FastAPI cannot derive from the routes."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = document["components"]
        components["schemas"]["Problem"] = errors.SCHEMA
        components["securitySchemes"] = {
            "key": {
                "type": "apiKey",
                "in": "header",
                "name": "X-API-Key",
                "description": "Required if MLOPS_API_KEYS is set.",
            },
            "admin": {"type": "http", "scheme": "bearer", "description": "The value of MLOPS_ADMIN_TOKEN."},
        }
        document["security"] = [{}, {"key": []}]
        app.openapi_schema = document
    return app.openapi_schema


def _swagger() -> Path:
    """Finds the files of Swagger UI without importing the package that contains them."""
    found = importlib.util.find_spec("fastapi_offline")
    assert found is not None  # noqa: S101 - it is a dependency of the project
    assert found.origin is not None  # noqa: S101
    return Path(found.origin).parent / "static"
