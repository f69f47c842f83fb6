"""The service: one image in, one answer out. `uvicorn src.mlops.api:app`, or `inv api`."""

import asyncio
import errno
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import uvicorn
from fastapi import FastAPI, HTTPException, Request, UploadFile
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.mlops.errors import ImageError, MlopsError, ServiceError, UnsupportedImageError, describe, report
from src.mlops.inference import LATEST, Classifier, Prediction, locate_model

logger = logging.getLogger(__name__)
NO_MODEL = "none"
NOT_LOADED = "Model not loaded. Check server logs."
_FORM_OVERHEAD = 16 * 1024  # bytes that a multipart body may have beside the file


class Settings(BaseSettings):
    """Settings of the service: environment variables with the prefix `MLOPS_`, or options of the command line."""

    model_config = SettingsConfigDict(
        env_prefix="MLOPS_", env_ignore_empty=True, cli_kebab_case=True, cli_prog_name="python -m src.mlops.api"
    )

    model: Annotated[str, Field(description="model file; latest: what training made last; none")] = LATEST
    max_upload_bytes: Annotated[int, Field(ge=1, description="largest image in bytes")] = 5 * 1024 * 1024
    host: Annotated[str, Field(description="address to listen on; 0.0.0.0 is all of the machine")] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535, description="port to listen on")] = 8000


@dataclass(frozen=True)
class Answer(Prediction):
    """A prediction and the name of the uploaded file."""

    filename: str


def create_app(settings: Settings | None = None) -> FastAPI:
    """Builds the application; the model is loaded when it starts.

    Args:
        settings: None reads them from the environment.
    """
    settings = settings or Settings()
    # Decoding and inference run in threads of their own, never in the event loop. A large picture takes a few hundred
    # MB meanwhile, which each thread's allocator keeps, so there are only as many threads as cores.
    pool = ThreadPoolExecutor(os.cpu_count())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.classifier = _load(settings.model)
        yield
        pool.shutdown()

    app = FastAPI(
        title="German traffic signs",
        description="Classifies a picture of one traffic sign into the 43 classes of GTSRB, and says when it is none.",
        version="1",
        lifespan=lifespan,
    )
    app.add_middleware(LimitBody, max_bytes=settings.max_upload_bytes)

    @app.post("/cv_model/", responses={code: {"description": text} for code, text in _ERRORS.items()})
    async def classify(request: Request, file: UploadFile) -> Answer:
        """Classifies one uploaded image (BMP, GIF, JPEG, PNG, PPM, TIFF or WebP)."""
        classifier: Classifier | None = request.app.state.classifier
        if classifier is None:
            raise HTTPException(500, NOT_LOADED)
        content = await file.read(settings.max_upload_bytes + 1)
        if len(content) > settings.max_upload_bytes:
            raise HTTPException(413, _too_large(settings.max_upload_bytes))
        try:
            [prediction] = await asyncio.get_running_loop().run_in_executor(pool, classifier.classify, [content])
        except ImageError as error:
            raise HTTPException(415 if isinstance(error, UnsupportedImageError) else 422, str(error)) from error
        return Answer(**vars(prediction), filename=file.filename or "")

    @app.get("/health/live")
    def live() -> dict[str, str]:
        """Answers as long as the process does."""
        return {"status": "alive"}

    @app.get("/health/ready", responses={503: {"description": "no model is loaded"}})
    def ready(request: Request) -> dict[str, str]:
        """Answers 200 only when a model is loaded, so that traffic comes when it can be answered."""
        classifier: Classifier | None = request.app.state.classifier
        if classifier is None:
            raise HTTPException(503, NOT_LOADED)
        return {"status": "ready", "model_version": classifier.version}

    return app


_ERRORS = {
    413: "the image is larger than the limit",
    415: "the file is no picture of an accepted format",
    422: "no file, or a picture that is damaged, empty, animated or of absurd dimensions",
    500: "no model is loaded",
}


class LimitBody:
    """Refuses a request body beyond the limit while it arrives, before anything of it is stored.

    Args:
        app: The application behind.
        max_bytes: Largest file; a multipart body may be a little larger.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what arrives."""
        received = 0

        async def count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes + _FORM_OVERHEAD:
                raise HTTPException(413, _too_large(self._max_bytes))
            return message

        await self._app(scope, count, send)


def _too_large(max_bytes: int) -> str:
    return f"expected an image of at most {max_bytes:,} bytes, found a larger one"


def _load(model: str) -> Classifier | None:
    """Loads the model; a service without one still answers, and says so."""
    if model == NO_MODEL:
        logger.warning("serving without a model, as asked for by model=%s", NO_MODEL)
        return None
    path = locate_model(model)
    try:
        classifier = Classifier.load(path)
    except MlopsError as error:
        logger.error("serving without a model: %s", error)  # noqa: TRY400 - the message says it all
        return None
    logger.info("serving %s, version %s", path, classifier.version)
    return classifier


def main() -> None:
    """Starts the service from the command line."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        settings = CliApp.run(Settings)
        listener = _listen(settings)
    except ValidationError as error:
        report(ServiceError(f"{'; '.join(describe(error))}. `python -m src.mlops.api --help` tells what is expected."))
    except ServiceError as error:
        report(error)
    logger.info("starting at http://%s:%d/docs", settings.host, settings.port)
    try:
        uvicorn.Server(uvicorn.Config(create_app(settings), log_level="warning")).run(sockets=[listener])
    except KeyboardInterrupt:
        sys.exit(130)  # the shell's code for Ctrl-C; requests in flight were answered first


def _listen(settings: Settings) -> socket.socket:
    """Binds the port here rather than in uvicorn, so that what is wrong with it is told in one line."""
    try:
        # The protocol too: without it asyncio leaves Nagle's algorithm on, and each answer waits 40 ms.
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        in_use = "Stop the other service, or choose a port with --port."
        other = "Give an address of this machine with --host, and a port that you may use with --port."
        raise ServiceError(
            f"expected to listen on {settings.host}:{settings.port}, found: {error.strerror}. "
            f"{in_use if error.errno == errno.EADDRINUSE else other}"
        ) from error
    return listener


def __getattr__(name: str) -> FastAPI:
    # `uvicorn src.mlops.api:app` finds the application here; importing the module builds nothing.
    if name == "app":
        return create_app()
    raise AttributeError(name)


if __name__ == "__main__":
    main()
