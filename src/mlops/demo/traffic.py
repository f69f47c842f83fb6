"""Images of signs in clear air and in fog, and a thread that sends them to a service."""

import io
import threading
import time
from pathlib import Path
from typing import Self

import httpx2 as httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.synthetic.camera import photograph_track
from src.mlops.errors import DataError
from src.mlops.evaluation.corruptions import SEVERITIES, corrupt
from src.mlops.io.files import find_files, warn_about_special
from src.mlops.preprocessing import image_suffixes, open_image, preprocess

RATE = 20.0  # images per second
_SIDE = 64  # px of the images that are sent
_FRAMES = 8  # drawn images per sign
_MOST = 400  # images of a folder


def make_images(folder: str) -> dict[int, list[bytes]]:
    """Reads the images of a folder, or draws signs.

    Args:
        folder: Folder of images; empty: draw signs.

    Returns:
        PNG files for each severity of the fog, 0 (clear) to 5.

    Raises:
        DataError: The folder has no images.
    """
    clear = np.stack([preprocess(image, _SIDE) for image in (_read(folder) if folder else _draw())])
    return {
        severity: [_png(image) for image in (corrupt(clear, "fog", severity) if severity else clear)]
        for severity in (0, *SEVERITIES)
    }


def _draw() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [frame.image for sign in SIGNS for frame in photograph_track(sign.class_id, rng, _FRAMES)]


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


class Traffic:
    """Sends images to a service in a thread, `RATE` per second, while the context lasts.

    Args:
        url: Address of the service.
        images: What `make_images` returned.

    Attributes:
        severity: Severity of the fog, 0 (clear) to 5; can be changed at any time.
        paused: Whether no image is sent.
        sent: Number of images sent so far.
        failed: How many of them were not classified.
    """

    def __init__(self, url: httpx.URL | str, images: dict[int, list[bytes]]) -> None:
        self.severity, self.paused, self.sent, self.failed = 0, False, 0, 0
        self._url, self._images = url, images
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        rng, due = np.random.default_rng(0), time.monotonic()
        with httpx.Client(base_url=self._url, timeout=30) as client:
            while not self._end.wait(max(0.0, due - time.monotonic())):
                due = max(due + 1 / RATE, time.monotonic() - 1)  # a slow machine gets less traffic, not a burst
                if self.paused:
                    continue
                self.sent += 1
                try:
                    images = self._images[self.severity]
                    content = images[rng.integers(len(images))]
                    client.post("/cv_model/", content=content, headers={"Content-Type": "image/png"}).raise_for_status()
                except httpx.HTTPError:
                    self.failed += 1
