"""Load test of a running service: `TARGET_HOST=http://localhost:8000 locust -f tests/performancetests/locustfile.py`.

`inv loadtest` starts a service and runs this test against it. The test sends the images in the folder `TARGET_IMAGES`,
or synthetic images of the 43 signs if the variable is unset. `TARGET_API_KEY` is the API key to send,
`TARGET_HEADERS` a JSON object with other headers, such as an identity token.
"""

import io
import json
import os
import random
import sys
from pathlib import Path

import numpy as np
from locust import FastHttpUser, between, events, task
from locust.env import Environment

sys.path.insert(0, str(Path(__file__).parents[2]))  # locust can be started in any folder

from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.synthetic.camera import photograph_track
from src.mlops.data.synthetic.drawing import draw_sign
from src.mlops.io.files import find_files, warn_about_special
from src.mlops.preprocessing import image_suffixes

MOST = 200  # maximum number of images in memory
KEY = os.environ.get("TARGET_API_KEY")
HEADERS = json.loads(os.environ.get("TARGET_HEADERS", "{}")) | ({"X-API-Key": KEY} if KEY else {})


def drawn(class_id: int) -> bytes:
    """Returns a rendered sign as PNG."""
    [frame] = photograph_track(draw_sign(SIGNS[class_id]), np.random.default_rng(class_id), 1)
    file = io.BytesIO()
    frame.image.save(file, "PNG")
    return file.getvalue()


def images() -> list[bytes]:
    """Reads the images in `TARGET_IMAGES`, or renders some."""
    folder = os.environ.get("TARGET_IMAGES")
    if not folder:
        return [drawn(sign.class_id) for sign in SIGNS]
    special: list[str] = []
    paths = list(find_files(Path(folder), image_suffixes(), special))
    warn_about_special(special)
    if not paths:
        raise SystemExit(f"No images in TARGET_IMAGES={folder}")
    return [Path(path).read_bytes() for path in random.Random(0).sample(paths, min(MOST, len(paths)))]


IMAGES = images()


@events.quitting.add_listener
def _fail_without_requests(environment: Environment, **_: object) -> None:
    if not environment.stats.total.num_requests:
        environment.process_exit_code = 1


class Driver(FastHttpUser):
    """Simulates a car: mostly sends one sign at a time, sometimes several."""

    host = os.environ.get("TARGET_HOST", "http://localhost:8000")
    wait_time = between(0.01, 0.1)
    default_headers = HEADERS

    @task(20)
    def one(self) -> None:
        """Sends one sign in a form."""
        self._ask("/cv_model/", "predicted_class", files={"file": ("sign.png", random.choice(IMAGES))})

    @task(5)
    def raw(self) -> None:
        """Sends one sign as the body."""
        content, kind = random.choice(IMAGES), {"Content-Type": "application/octet-stream"}
        self._ask("/cv_model/", "predicted_class", data=content, headers=kind, name="/cv_model/ raw")

    @task(1)
    def several(self) -> None:
        """Sends eight signs in one batch."""
        files = [("files", ("sign.png", content)) for content in random.sample(IMAGES, 8)]
        self._ask("/cv_model/batch", "results", files=files)

    @task(1)
    def explain(self) -> None:
        """Requests a saliency map."""
        self.client.post("/cv_model/explain", files={"file": ("sign.png", random.choice(IMAGES))})

    @task(1)
    def ready(self) -> None:
        """Checks whether the service is ready."""
        self.client.get("/health/ready")

    def _ask(self, path: str, expected: str, **request: object) -> None:
        with self.client.post(path, catch_response=True, **request) as answer:
            if answer.status_code != 200 or expected not in answer.json():
                answer.failure(f"{answer.status_code}: {answer.text[:200]}")
