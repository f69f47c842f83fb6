"""The FastAPI application and its routes."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response, params
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse
from fastapi.routing import iter_route_contexts
from fastapi.staticfiles import StaticFiles
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from src.mlops.errors import ConfigError, ImageError, MlopsError, NoSaliencyError
from src.mlops.monitoring.prediction_log import PredictionLog
from src.mlops.project import Project, load_project
from src.mlops.serving import errors, prometheus
from src.mlops.serving.auth import RequireAdmin, RequireKey
from src.mlops.serving.batcher import Batcher
from src.mlops.serving.feedback import feedback_routes
from src.mlops.serving.middleware import FORM_OVERHEAD, Limits, RequestContext, ignore_trailing_slash, too_large
from src.mlops.serving.model_holder import ModelHolder
from src.mlops.serving.pages import PAGE, page_routes
from src.mlops.serving.rate_limit import RateLimit
from src.mlops.serving.schemas import REFUSED_EXAMPLE, Answer, BatchAnswer, Health, ModelAnswer, Refused, example
from src.mlops.serving.settings import Settings
from src.mlops.serving.shadow import Shadow
from src.mlops.serving.shared import request_reload
from src.mlops.serving.shutdown import Shutdown
from src.mlops.serving.uploads import Upload, Uploads, documented_request

LOG_SECONDS = 6.0  # to write and upload the last records; Cloud Run kills an instance 10 s after SIGTERM
AT_ONCE = 4  # images of one batch request that can be in the queue at the same time


def create_app(settings: Settings | None = None, project: Project | None = None) -> FastAPI:
    """Builds the application. It loads the model at startup.

    Routes that are added to the application later need an API key like all others, if keys are configured.

    Args:
        settings: The settings of the service; None reads them from the environment.
        project: The names of the project; None reads them from pyproject.toml.

    Returns:
        The application.

    Raises:
        ConfigError: The names of the project are missing or invalid.
    """
    settings, project = settings or Settings(), project or load_project()
    models = ModelHolder(settings)
    log = PredictionLog(settings.log_options, prometheus.count_log) if settings.log_options else None
    shadow = Shadow(settings, models.candidate, log) if models.candidate else None
    batcher = Batcher(settings, models, log, shadow)
    shutdown = Shutdown()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:  # the argument can be an application that mounts this one
        if settings.api_keys:
            _require_protection([route for route in app.routes if id(route) not in known])
        with shutdown.handling_sigterm():
            async with models.serving():
                shutdown.started()
                if log:
                    prometheus.show_log()
                    log.start()
                if shadow:
                    shadow.start(lambda: batcher.idle_since)
                yield
        batcher.close()
        if shadow:
            shadow.close()
        if log:
            log.close(LOG_SECONDS)

    app = FastAPI(
        title=project.title,
        description=project.description,
        version="1",
        lifespan=lifespan,
        docs_url=None,  # a public route serves Swagger UI without files from other hosts
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy, the redirect would point to an internal address
        # OpenTelemetry's standard variables set the target of traces and metrics. Without them nothing is exported.
        telemetry={"auto_configure": True, "operation_spans": False, "logs": False},
    )
    ignore_trailing_slash(app.router)
    errors.install(app)
    app.openapi = _completed(app.openapi, models)  # type: ignore[method-assign]
    image = f"An image has at most {settings.max_upload_bytes:,} bytes."
    app.add_middleware(  # the middleware added last is the outermost
        Limits,
        max_body=settings.max_batch_bytes + FORM_OVERHEAD,
        too_large=f"{too_large(settings.max_batch_bytes)} {image}",
    )
    if origins := settings.listed(settings.cors_origins):
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["X-API-Key", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(RequestContext, shutdown=shutdown)
    if proxies := settings.listed(settings.trusted_proxies):
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=proxies)

    protection: list[params.Depends] = []
    if settings.api_keys:
        protection.append(Depends(RequireKey(settings)))
    if settings.rate_limit:
        protection.append(Depends(RateLimit(settings)))
    # Added first and to the application itself: routes are tried in this order, and routers cost time.
    _add_model_routes(app, settings, models, batcher, protection)
    app.include_router(_public_routes(models))
    app.include_router(page_routes(project))
    app.include_router(_admin_routes(settings, models))
    app.include_router(feedback_routes(settings, models, log, protection))
    app.mount("/static/swagger", StaticFiles(directory=_swagger()))
    app.mount("/static", StaticFiles(directory=PAGE))
    app.router.dependencies += protection  # for every route that is added later
    known = {id(route) for route in app.routes}
    return app


def _require_protection(routes: list[BaseRoute]) -> None:
    """Raises an error if one of the routes does not check the API key."""
    for route in iter_route_contexts(routes):  # also the routes of included routers
        checks = getattr(route, "dependencies", [])  # mounted applications and Starlette's own routes have none
        if not any(isinstance(check.dependency, RequireKey) for check in checks):
            raise ConfigError(
                f"The route {route.path or route.original_route} would need no API key. Add it with app.get or another "
                "method of FastAPI, or mount it next to this application (see New endpoints in docs/how-to/serve.md)."
            )


def _add_model_routes(
    app: FastAPI, settings: Settings, models: ModelHolder, batcher: Batcher, protection: list[params.Depends]
) -> None:
    """Adds the routes that need an API key, if keys are configured."""
    uploads = Uploads(settings)

    @app.post(
        "/cv_model/",
        operation_id="classify",  # the name of the function in generated clients
        response_model=Answer,
        responses=errors.documented(400, 401, 408, 413, 415, 422, 429, 431, 500, 503),
        openapi_extra=documented_request("file", several=False),
        dependencies=protection,
    )
    async def classify(request: Request) -> Response:
        """Classifies one image (AVIF, BMP, GIF, HEIC, JPEG, PNG, PPM, TIFF or WebP), sent in a form or as the body."""
        models.require()
        # Called directly, because as a dependency it takes 0.03 ms more (docs/performance.md).
        upload = await uploads.image(request)
        return _json(Answer.of(await batcher.classify(upload.content), upload.filename))

    @app.post(
        "/cv_model/batch",
        operation_id="classify_several",
        response_model=BatchAnswer,
        responses=errors.documented(400, 401, 408, 413, 415, 422, 429, 431, 500, 503),
        openapi_extra=documented_request("files", several=True),
        dependencies=[*protection, Depends(models.require)],
    )
    async def classify_several(sent: Annotated[list[Upload], Depends(uploads.images)]) -> Response:
        """Classifies several images. The result of an image that cannot be used is an error."""

        async def answer(number: int, upload: Upload) -> Answer | Refused:
            if len(upload.content) > settings.max_upload_bytes:
                return Refused(upload.filename, too_large(settings.max_upload_bytes), 413)
            try:
                return Answer.of(await batcher.classify(upload.content, number), upload.filename)
            except ImageError as error:
                return Refused(upload.filename, str(error), errors.status_of(error))

        results: list[Answer | Refused] = []
        for start in range(0, len(sent), AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, len(sent)))
            results += await asyncio.gather(*(answer(number, sent[number]) for number in numbers))
        return _json(BatchAnswer(results))

    @app.post(
        "/cv_model/explain",
        operation_id="explain",
        response_class=Response,
        responses=errors.documented(400, 401, 408, 413, 415, 422, 429, 431, 500, 501, 503, success=errors.PNG),
        openapi_extra=documented_request("file", several=False),
        dependencies=[*protection, Depends(models.require)],
    )
    async def explain(upload: Annotated[Upload, Depends(uploads.image)]) -> Response:
        """Returns the saliency map of one image as a PNG. Yellow marks the strongest evidence, red weaker evidence."""
        try:
            return Response(await batcher.explain(upload.content), media_type="image/png")
        except NoSaliencyError as error:
            raise HTTPException(501, str(error)) from error

    @app.get("/model", operation_id="model", dependencies=protection, responses=errors.documented(401, 429, 500))
    async def model() -> ModelAnswer:
        """Returns the version, intended use, classes, calibration and provenance of the model, and what is recorded."""
        return ModelAnswer.of(models.require(), settings, models.candidate)


def _public_routes(models: ModelHolder) -> APIRouter:
    """Returns the routes that never need an API key."""
    router = APIRouter()

    @router.get("/health/live", response_model_exclude_none=True)
    async def live() -> Health:
        """Returns 200 while the process runs."""
        return Health("alive")

    @router.get("/health/ready", response_model_exclude_none=True, responses=errors.documented(503))
    async def ready() -> Health:
        """Returns 200 if a model is loaded and the service can receive traffic."""
        if models.classifier is None:
            raise HTTPException(503, errors.NOT_LOADED, {"Retry-After": errors.RETRY_AFTER})
        return Health("ready", models.classifier.version)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def figures() -> Response:
        """Returns the metrics in Prometheus' text format."""
        return Response(prometheus.exposition(), media_type=prometheus.CONTENT_TYPE)

    return router


def _admin_routes(settings: Settings, models: ModelHolder) -> APIRouter:
    """Returns the routes that need the admin token."""
    router = APIRouter(prefix="/admin", dependencies=[Depends(RequireAdmin(settings.admin_token))])

    @router.post("/reload", responses=errors.documented(401, 409))
    async def reload() -> Health:
        """Loads the model file again. If the new model cannot be used, the previous one stays in service.

        With several workers, the other workers load it within seconds. A shadow loads its model again, too, after the
        response.
        """
        if models.candidate:
            models.candidate.reload()
        try:
            classifier = await models.reload()
        except MlopsError as error:
            raise HTTPException(
                409, "The new model cannot be used. The previous model remains in service. See the log for the reason."
            ) from error
        request_reload()
        return Health("ready", classifier.version)

    return router


def _json(answer: Any) -> Response:
    # FastAPI's own serialisation validates the answer first, which takes as long as a small network.
    return Response(to_json(answer), media_type="application/json")


def _completed(generate: Callable[[], dict[str, Any]], models: ModelHolder) -> Callable[[], dict[str, Any]]:
    """Adds what FastAPI cannot generate: examples with the classes of the model."""

    def complete() -> dict[str, Any]:
        document = generate()
        answer = example(models.classifier.info.classes if models.classifier else None)
        for path, value in [("/cv_model/", answer), ("/cv_model/batch", {"results": [answer, REFUSED_EXAMPLE]})]:
            success = document["paths"][path]["post"]["responses"]["200"]
            success["content"]["application/json"]["example"] = value
        return document

    return complete


def _swagger() -> Path:
    """Finds the files of Swagger UI without importing the package that contains them."""
    found = importlib.util.find_spec("fastapi_offline")
    assert found is not None  # noqa: S101 - it is a dependency of the project
    assert found.origin is not None  # noqa: S101
    return Path(found.origin).parent / "static"
