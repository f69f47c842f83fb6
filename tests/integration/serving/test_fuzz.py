"""Tests the service with requests generated from its OpenAPI document, and with corrupted images and forms."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from src.mlops.preprocessing import WEB_FORMATS
from src.mlops.serving.app import create_app
from src.mlops.serving.settings import Settings
from tests.helpers.images import encode, make_image, png_header
from tests.helpers.service import SNAPSHOT

KINDS = [*WEB_FORMATS, "GIF of two frames", "PNG of absurd size"]
SEEDS = {kind: encode(make_image(number, side=24), kind) for number, kind in enumerate(WEB_FORMATS)} | {
    "GIF of two frames": encode(make_image(0), "GIF", save_all=True, append_images=[make_image(1)]),
    "PNG of absurd size": png_header(9_000, 9_000),
}
COUNTS = [pytest.param(300, id="few"), pytest.param(10_000, id="many", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def client(exported: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(model=str(exported))), raise_server_exceptions=False) as client:
        yield client


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Corrupts bytes: changes, removes, repeats or inserts some, or writes extreme numbers into the header."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place = rng.randrange(len(data) or 1)
        match rng.randrange(6):
            case 0:
                data[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[place:]
            case 2:
                del data[place : place + rng.randrange(1, 64)]
            case 3:
                data[place:place] = data[place : place + rng.randrange(1, 64)]
            case 4:
                head = rng.randrange(min(len(data), 64) or 1)
                data[head : head + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
            case _:
                data[place:place] = rng.randbytes(rng.randrange(1, 32))
    return bytes(data)


@pytest.mark.parametrize("count", COUNTS)
def test_corrupted_images_never_break_the_service(client: TestClient, count: int) -> None:
    found: Counter[int] = Counter()

    @settings(max_examples=count, deadline=None, phases=[Phase.generate], database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32), raw=st.booleans())
    def ask(kind: str, seed: int, raw: bool) -> None:
        content = mutated(SEEDS[kind], random.Random(seed))
        if raw:
            answer = client.post("/cv_model/", content=content, headers={"Content-Type": "image/png"})
        else:
            answer = client.post("/cv_model/", files={"file": ("a.png", content)})
        found[answer.status_code] += 1
        assert answer.status_code in {200, 413, 415, 422}, (kind, seed, answer.text)

    ask()
    assert sum(found.values()) >= 0.9 * count
    assert min(found[200], found[415], found[422]) > 0.02 * count, found
    assert client.post("/cv_model/", files={"file": ("a.png", SEEDS["PNG"])}).status_code == 200


@pytest.mark.parametrize("count", COUNTS)
def test_corrupted_forms_never_break_the_service(client: TestClient, count: int) -> None:
    rng = random.Random(7)
    part = b'--x\r\nContent-Disposition: form-data; name="%b"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    forms = {
        path: part % name + SEEDS["PNG"] + b"\r\n" + part % name + SEEDS["JPEG"] + b"\r\n--x--\r\n"
        for path, name in [("/cv_model/", b"file"), ("/cv_model/batch", b"files"), ("/cv_model/explain", b"file")]
    }
    found: Counter[int] = Counter()
    for _ in range(count // 3):
        path = rng.choice(list(forms))
        kind = rng.choice(
            ["multipart/form-data; boundary=x", "multipart/form-data; boundary=xx", "multipart/form-data"]
        )
        answer = client.post(path, content=mutated(forms[path], rng), headers={"Content-Type": kind})
        found[answer.status_code] += 1
        assert answer.status_code < 500, answer.text
    assert found[400] > 0


description = schemathesis.openapi.from_dict(json.loads(SNAPSHOT.read_text()))


@description.parametrize()
@settings(max_examples=20, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
          suppress_health_check=list(HealthCheck))  # fmt: skip
def test_responses_match_the_openapi_document(case: schemathesis.Case, client: TestClient) -> None:
    """Sends valid and invalid requests; the document must describe every status and content type of the responses."""
    wanted = case.as_transport_kwargs(base_url="http://testserver")
    prepared = requests.Request(**{name: wanted.get(name) for name in ("method", "url", "headers", "data", "files")})
    sent = prepared.prepare()
    answer = client.request(str(sent.method), str(sent.url), content=sent.body, headers=dict(sent.headers))
    documented = description[case.path][case.method].definition.raw["responses"]
    assert str(answer.status_code) in documented, answer.text
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in documented[str(answer.status_code)]["content"]
