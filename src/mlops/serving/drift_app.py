"""The drift service: computes drift reports on request, and starts a retraining when Alertmanager reports an alert.

It needs pandas, so it has an image of its own.
"""

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from src.mlops.errors import DataError, MlopsError
from src.mlops.monitoring.accepted import REFERENCE
from src.mlops.monitoring.drift import drift, page
from src.mlops.monitoring.window import ALL
from src.mlops.serving import errors, prometheus
from src.mlops.serving.auth import RequireAdmin
from src.mlops.serving.middleware import STRICT, Limits, RequestContext, ignore_trailing_slash, too_large
from src.mlops.serving.retraining import Notification, NotStartedError, Outcome, Retraining
from src.mlops.serving.schemas import Health
from src.mlops.serving.settings import DriftSettings
from src.mlops.serving.shutdown import Shutdown

logger = logging.getLogger(__name__)
_MAX_BODY = 65_536  # bytes; a notification of Alertmanager has about 1,000 per alert
_BUSY = "Another report is being computed. Try again when it is ready."
_BUSY_SECONDS = "10"  # until another attempt makes sense
_PAGE_POLICY = f"{STRICT}; style-src 'unsafe-inline'; img-src data:"  # the report has its style and images in itself
_MEANING = {
    401: "The token is missing or wrong.",
    404: "No report was computed yet.",
    409: _BUSY,
    413: "The request is larger than the limit.",
    422: "The window, the baseline or another value is not valid, or there is nothing to compare.",
    424: "GitHub refuses to start the retraining.",
    503: "The model or the prediction log cannot be used, or GitHub cannot be reached.",
}


class Asked(BaseModel):
    """What to compare."""

    model_config = ConfigDict(extra="forbid")

    window: Annotated[
        str, Field(description="all; a length such as 24h, which ends at the newest record; or START/END in ISO 8601")
    ] = ALL
    # Only names, because a path would let clients read other files.
    baseline: Annotated[
        str | None,
        Field(
            pattern=rf"^({REFERENCE}|[0-9TZ:-]+)$",
            description=f"name of an accepted baseline; {REFERENCE}: the one in the model file; null: the newest",
        ),
    ] = None
    cluster_seconds: Annotated[
        float | None,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="longest time between two frames of one sign; 0: all count; null: as for the baseline",
        ),
    ] = None


class Started(BaseModel):
    """The answer to a notification."""

    retraining: Annotated[Outcome, Field(description="what came of the notification")]
    alerts: Annotated[list[str], Field(description="names of the alerts that fire")]


class _Last(NamedTuple):
    """The last report, as a page and as metrics."""

    page: str
    metrics: str


class _Reports:
    """Computes reports, one at a time, because each of them can need a gigabyte."""

    def __init__(self, settings: DriftSettings) -> None:
        self._settings = settings
        self._busy = threading.Lock()
        self.last: _Last | None = None

    def compute(self, asked: Asked) -> str:
        """Computes a report and returns it as JSON.

        Raises:
            HTTPException: 409, another one is being computed.
            MlopsError: See `monitoring.drift.drift`.
        """
        if not self._busy.acquire(blocking=False):
            raise HTTPException(409, _BUSY, {"Retry-After": _BUSY_SECONDS})
        try:
            log = self._settings.log_url
            report = drift(log, asked.window, asked.baseline, self._settings.model, asked.cluster_seconds)
            self.last = _Last(page(report, log), report.to_prometheus())
            return report.to_json()
        finally:
            self._busy.release()


def create_app(settings: DriftSettings) -> FastAPI:
    """Builds the application."""
    reports, shutdown = _Reports(settings), Shutdown()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with shutdown.handling_sigterm():
            shutdown.started()
            yield

    app = FastAPI(title="Drift", version="1", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    ignore_trailing_slash(app.router)
    errors.install(app)
    app.add_exception_handler(MlopsError, _on_error)
    app.add_middleware(Limits, max_body=_MAX_BODY, too_large=too_large(_MAX_BODY))
    app.add_middleware(RequestContext, shutdown=shutdown)
    app.include_router(_public_routes(reports))
    app.include_router(_protected_routes(settings, reports))
    app.include_router(_alert_routes(settings))
    return app


def _protected_routes(settings: DriftSettings, reports: _Reports) -> APIRouter:
    """Returns the routes that need the token: reports are expensive, and show images of the log."""
    router = APIRouter(dependencies=[Depends(RequireAdmin(settings.token, "MLOPS_DRIFT_TOKEN"))])

    # Not a coroutine, so FastAPI runs it in a thread, and the other routes answer meanwhile.
    @router.post("/drift", responses=errors.documented(401, 409, 413, 422, 503, meanings=_MEANING))
    def compute(asked: Asked = Asked()) -> JSONResponse:  # noqa: B008 - never changed
        """Compares a window of the prediction log with a baseline. docs/reference/drift-report.md has the fields."""
        return _Computed(reports.compute(asked))

    @router.get("/drift", response_class=HTMLResponse, responses=errors.documented(401, 404, meanings=_MEANING))
    async def show() -> Response:
        """Returns the last report as a page."""
        if reports.last is None:
            raise HTTPException(404, "There is no report yet. Compute one with POST /drift.")
        return HTMLResponse(reports.last.page, headers={"Content-Security-Policy": _PAGE_POLICY})

    return router


def _alert_routes(settings: DriftSettings) -> APIRouter:
    """Returns the webhook of Alertmanager, which needs the same token."""
    router = APIRouter(dependencies=[Depends(RequireAdmin(settings.token, "MLOPS_DRIFT_TOKEN"))])
    retraining = Retraining(settings)
    prometheus.show_retrainings(Outcome)

    @router.post("/alerts", responses=errors.documented(401, 413, 422, 424, 503, meanings=_MEANING))
    def notify(notification: Notification) -> Started:
        """Starts a retraining if an alert fires and none was started recently. docs/how-to/retrain.md explains it."""
        alerts = notification.firing()
        try:
            outcome = retraining.start(alerts)
        except NotStartedError as error:
            prometheus.count_retraining(error.outcome)
            logger.error("%s", error)  # noqa: TRY400
            # Alertmanager repeats a notification after a status of 500 or above only.
            raise HTTPException(424 if error.outcome == Outcome.REFUSED else 503, str(error)) from error
        prometheus.count_retraining(outcome)
        return Started(retraining=outcome, alerts=alerts)

    return router


def _public_routes(reports: _Reports) -> APIRouter:
    """Returns the routes that need no token."""
    router = APIRouter()

    @router.get("/health/live", response_model_exclude_none=True)
    async def live() -> Health:
        """Returns 200 while the process runs."""
        return Health("alive")

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Returns the gauges of the last report, and the metrics of the process, in Prometheus' text format."""
        gauges = reports.last.metrics.encode() if reports.last else b""
        return Response(prometheus.exposition() + gauges, media_type=prometheus.CONTENT_TYPE)

    return router


class _Computed(JSONResponse):
    """A response with JSON that is already text."""

    def render(self, content: str) -> bytes:
        """Returns the bytes of the body."""
        return content.encode()


async def _on_error(_: Request, error: Exception) -> JSONResponse:
    # The client has the token, so the message may name files and URLs of the server.
    return errors.problem(422 if isinstance(error, DataError) else 503, str(error))
