"""Images of signs in clear air and in fog, and a thread that sends them to a service."""

import io
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import httpx2 as httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.synthetic.camera import photograph_track
from src.mlops.data.synthetic.drawing import draw_sign
from src.mlops.errors import DataError
from src.mlops.evaluation.corruptions import SEVERITIES, corrupt
from src.mlops.inference.classifier import Classifier
from src.mlops.io.files import find_files, warn_about_special
from src.mlops.preprocessing import image_suffixes, open_image, preprocess

RATE = 20.0  # images per second
_SIDE = 64  # px of the images that are sent
_FOG_STEP_SECONDS = 3.0
_FRAMES = 8  # drawn images per sign
_TRIES = 10  # scenes of a sign of which the first that the model knows is sent
_MOST = 400  # images of a folder


def make_images(folder: str, classifier: Classifier) -> dict[int, list[bytes]]:
    """Reads the images of a folder, or draws signs, in random order.

    Args:
        folder: Folder of images; empty: draw signs that the model knows.
        classifier: The model that the service will run.

    Returns:
        See `in_fog`.

    Raises:
        DataError: The folder has no images.
    """
    images = _read(folder) if folder else _draw(classifier)
    return in_fog([images[number] for number in np.random.default_rng(0).permutation(len(images))])


def in_fog(images: Sequence[Image.Image]) -> dict[int, list[bytes]]:
    """Puts images into fog.

    Returns:
        PNG files for each severity of the fog, 0 (clear) to 5.
    """
    clear = np.stack([preprocess(image, _SIDE) for image in images])
    return {
        severity: [_png(image) for image in (corrupt(clear, "fog", severity) if severity else clear)]
        for severity in (0, *SEVERITIES)
    }


def _draw(classifier: Classifier) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    images: list[Image.Image] = []
    for sign in SIGNS:
        drawing = draw_sign(sign)
        # Some scenes are so dark or covered that they would raise the alerts in clear air.
        for _ in range(_TRIES):
            frames = [frame.image for frame in photograph_track(drawing, rng, _FRAMES)]
            if not any(answer.is_unknown for answer in classifier.classify(frames)):
                break
        images += frames
    return images


def _read(folder: str) -> list[Image.Image]:
    special: list[str] = []
    paths = list(find_files(Path(folder), image_suffixes(), special))
    warn_about_special(special)
    if not paths:
        raise DataError(f"The folder {folder} has no images. Give another one, or none to send drawn signs.")
    chosen = np.random.default_rng(0).permutation(len(paths))[:_MOST]
    return [open_image(paths[number]) for number in chosen]


def _png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


class Answer(NamedTuple):
    """The answer of a service to one image.

    Attributes:
        time: Seconds since the epoch at which it arrived.
        request_id: ID of the request.
        number: Which of the images it was.
        severity: Severity of the fog.
        predicted_class: The predicted class.
        model_version: Version of the model.
    """

    time: float
    request_id: str
    number: int
    severity: int
    predicted_class: int
    model_version: str


class Traffic:
    """Sends images to a service in a thread, in their order and again from the start, while the context lasts.

    Args:
        url: Address of the service.
        images: What `in_fog` returned.

    Attributes:
        severity: Severity of the fog, 0 (clear) to 5; can be changed at any time.
        paused: Whether no image is sent.
        rate: Images per second.
        sent: Number of images sent so far.
        failed: How many of them were not classified.
        answers: The answers to the others, oldest first.
    """

    def __init__(self, url: httpx.URL | str, images: dict[int, list[bytes]]) -> None:
        self.severity, self.paused, self.rate, self.sent, self.failed = 0, False, RATE, 0, 0
        self.answers: list[Answer] = []
        self._url, self._images = url, images
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def bring_fog(self) -> None:
        """Lets the fog get thicker within some seconds."""
        for severity in SEVERITIES:
            self.severity = severity
            time.sleep(_FOG_STEP_SECONDS)

    def _run(self) -> None:
        due = time.monotonic()
        with httpx.Client(base_url=self._url, timeout=30) as client:
            while not self._end.wait(max(0.0, due - time.monotonic())):
                due = max(due + 1 / self.rate, time.monotonic() - 1)  # a slow machine gets less traffic, not a burst
                if not self.paused:
                    self._send(client)

    def _send(self, client: httpx.Client) -> None:
        severity, number = self.severity, self.sent % len(self._images[0])
        self.sent += 1
        content = self._images[severity][number]
        try:
            response = client.post("/cv_model/", content=content, headers={"Content-Type": "image/png"})
            answer = response.raise_for_status().json()
        except httpx.HTTPError:
            self.failed += 1
            return
        facts = (answer["predicted_class"], answer["model_version"])
        self.answers.append(Answer(time.time(), response.headers["x-request-id"], number, severity, *facts))
