"""Load test of a running service: `TARGET_HOST=http://localhost:8000 locust -f tests/performancetests/locustfile.py`.

`inv loadtest` runs it against a service that it starts itself. Pictures come from the folder `TARGET_PICTURES`; without
it the 43 signs are drawn. `TARGET_API_KEY` is sent where the service asks for one.
"""

import io
import os
import random
import sys
from pathlib import Path

import numpy as np
from locust import FastHttpUser, between, events, task
from locust.env import Environment

sys.path.insert(0, str(Path(__file__).parents[2]))  # locust starts anywhere

from src.mlops.data.camera import photograph_track
from src.mlops.data.signs import SIGNS

SUFFIXES = {".png", ".jpg", ".jpeg", ".ppm", ".webp"}
MOST = 200  # pictures to keep in memory
KEY = os.environ.get("TARGET_API_KEY")


def drawn(class_id: int) -> bytes:
    """Photographs a drawn sign as PNG."""
    [frame] = photograph_track(class_id, np.random.default_rng(class_id), 1)
    file = io.BytesIO()
    frame.image.save(file, "PNG")
    return file.getvalue()


def pictures() -> list[bytes]:
    """Reads real signs, or draws some."""
    folder = os.environ.get("TARGET_PICTURES")
    if not folder:
        return [drawn(sign.class_id) for sign in SIGNS]
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"expected pictures below TARGET_PICTURES={folder}, found none")
    return [path.read_bytes() for path in random.Random(0).sample(paths, min(MOST, len(paths)))]


PICTURES = pictures()


@events.quitting.add_listener
def _nothing_asked_is_a_failure(environment: Environment, **_: object) -> None:
    if not environment.stats.total.num_requests:
        environment.process_exit_code = 1


class Driver(FastHttpUser):
    """Asks as a car would: mostly one sign at a time, now and then several."""

    host = os.environ.get("TARGET_HOST", "http://localhost:8000")
    wait_time = between(0.01, 0.1)
    default_headers = {"X-API-Key": KEY} if KEY else {}

    @task(20)
    def one(self) -> None:
        """One sign, as a form."""
        self._ask("/cv_model/", "predicted_class", files={"file": ("sign.png", random.choice(PICTURES))})

    @task(5)
    def raw(self) -> None:
        """One sign, as the body."""
        content, kind = random.choice(PICTURES), {"Content-Type": "application/octet-stream"}
        self._ask("/cv_model/", "predicted_class", data=content, headers=kind, name="/cv_model/ raw")

    @task(1)
    def several(self) -> None:
        """Eight signs at once."""
        files = [("files", ("sign.png", content)) for content in random.sample(PICTURES, 8)]
        self._ask("/cv_model/batch", "results", files=files)

    @task(1)
    def explain(self) -> None:
        """What decided."""
        self.client.post("/cv_model/explain", files={"file": ("sign.png", random.choice(PICTURES))})

    @task(1)
    def ready(self) -> None:
        """Whether it is ready."""
        self.client.get("/health/ready")

    def _ask(self, path: str, expected: str, **request: object) -> None:
        with self.client.post(path, catch_response=True, **request) as answer:
            if answer.status_code != 200 or expected not in answer.json():
                answer.failure(f"{answer.status_code}: {answer.text[:200]}")
