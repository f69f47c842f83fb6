"""Measures the CPU time of reading one image from a form in several ways, without network, decoding and inference.

    uv run python -m benchmarks.uploads

Each way is a route of the same FastAPI application that answers with the size of the image. The fastest of 100 rounds
counts, because all others were disturbed. Writes benchmarks/results/uploads.csv.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer
from fastapi import Depends, FastAPI, Request, Response, UploadFile
from starlette.datastructures import UploadFile as FormFile

from benchmarks.environment import Row, write_results
from benchmarks.serving import KIND, form_body
from src.mlops.cli import new_app, typer_main
from src.mlops.serving.settings import Settings
from src.mlops.serving.uploads import Upload, Uploads

app = new_app()

REQUESTS = 50  # per round
BODY = form_body("file", [bytes(4000)])  # the median size of a sign as PNG is similar


@app.command()
def main(rounds: Annotated[int, typer.Option(help="Number of rounds.")] = 100) -> None:
    """Measures all ways."""
    write_results("uploads", asyncio.run(_measure(rounds)), ("way",))


def _application() -> FastAPI:
    uploads = Uploads(Settings())
    application = FastAPI(telemetry={"auto_configure": False})

    @application.post("/direct")
    async def direct(request: Request) -> Response:
        return Response(str(len((await uploads.image(request)).content)))

    @application.post("/dependency")
    async def dependency(upload: Annotated[Upload, Depends(uploads.image)]) -> Response:
        return Response(str(len(upload.content)))

    @application.post("/form")
    async def form(request: Request) -> Response:
        async with request.form(max_files=1) as fields:
            file = fields["file"]
            assert isinstance(file, FormFile)  # noqa: S101 - the body above has this file
            return Response(str(len(await file.read())))

    @application.post("/parameter")
    async def parameter(file: UploadFile) -> Response:
        return Response(str(len(await file.read())))

    return application


async def _measure(rounds: int) -> list[Row]:
    application = _application()
    ways = {
        "python-multipart's parser, called by the route": "/direct",
        "python-multipart's parser, as a dependency": "/dependency",
        "`request.form()`": "/form",
        "parameter `file: UploadFile`": "/parameter",
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for way, path in ways.items():
            started = time.process_time()
            for _ in range(REQUESTS):
                await _ask(application, path)
            best[way] = min(best[way], (time.process_time() - started) / REQUESTS)
    return [
        {"way": way, "microseconds": round(1e6 * seconds), "rounds": rounds, "requests_per_round": REQUESTS}
        for way, seconds in best.items()
    ]


async def _ask(application: Callable[..., Awaitable[None]], path: str) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200  # noqa: S101 - otherwise the measurement is void

    headers = [(b"content-type", KIND.encode()), (b"content-length", str(len(BODY)).encode())]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    await application(scope, receive, send)


if __name__ == "__main__":
    typer_main(app)
