"""Tests that a client generated from the OpenAPI document, as docs/how-to/serve.md shows, can talk to the service."""

import asyncio
import importlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from src.mlops import ROOT
from src.mlops.inference.classifier import Classifier
from src.mlops.serving.app import create_app
from src.mlops.serving.settings import Settings
from tests.helpers.service import PNG, SNAPSHOT

PACKAGE = "german_traffic_signs_client"


@pytest.fixture
def generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    output = tmp_path / PACKAGE
    command = ["generate", "--path", str(SNAPSHOT), "--output-path", str(output), "--meta", "none"]
    subprocess.run([sys.executable, "-m", "openapi_python_client", *command], check=True, capture_output=True)
    monkeypatch.syspath_prepend(tmp_path)
    return output


def test_the_documented_client_classifies(generated: Path, exported: Path) -> None:
    document = (ROOT / "docs/how-to/serve.md").read_text()
    for name in ("classify", "ClassifyFilesBody", "File"):
        assert f"import {name}" in document
    package = importlib.import_module(PACKAGE)
    classify = importlib.import_module(f"{PACKAGE}.api.default.classify")
    models, types = importlib.import_module(f"{PACKAGE}.models"), importlib.import_module(f"{PACKAGE}.types")
    app = create_app(Settings(model=str(exported)))

    async def ask() -> list[Any]:
        async with app.router.lifespan_context(app):
            client = package.Client("http://service")
            client.set_async_httpx_client(
                httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")
            )
            bodies = [
                models.ClassifyFilesBody(file=types.File(io.BytesIO(PNG), "sign.png")),
                types.File(PNG),  # an asynchronous client cannot read a file object
                types.File(b"no image"),
            ]
            return [await classify.asyncio(client=client, body=body) for body in bodies]

    form, body, refused = asyncio.run(ask())
    expected = Classifier.load(exported).classify([PNG])[0]
    assert (form.class_name, form.filename) == (expected.class_name, "sign.png")
    assert body.predicted_class == expected.predicted_class
    assert (refused.status, refused.title) == (415, "Unsupported Media Type")
