"""Helpers for tests of the service."""

from pathlib import Path

import httpx2 as httpx
import onnx
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import REGISTRY

from tests.helpers.images import encode, make_image

SNAPSHOT = Path(__file__).with_name("openapi.json")  # the reviewed OpenAPI document
PNG = encode(make_image(1), "PNG")
ADMIN = {"Authorization": "Bearer secret"}


def other_model(exported: Path) -> bytes:
    """Returns the same network with different metadata, so it has another version."""
    model = onnx.load(exported)
    for entry in model.metadata_props:
        if entry.key == "metrics":
            entry.value = '{"val_Accuracy": 0.5}'
    return bytes(model.SerializeToString())


def post(client: TestClient, content: bytes, name: str = "sign.png"):  # type: ignore[no-untyped-def]
    return client.post("/cv_model/", files={"file": (name, content)})


def assert_problem(response: httpx.Response, status: int, message: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["type"], body["status"], bool(body["title"])) == ("about:blank", status, True)
    assert message in body["detail"], body


def asking(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0
