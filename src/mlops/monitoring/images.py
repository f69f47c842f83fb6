"""Images next to the prediction log, if they are switched on: which are stored, in which form, and for how long."""

import hashlib
import io
import logging
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from src.mlops.inference.classifier import Prediction
from src.mlops.io.storage import Storage
from src.mlops.monitoring.segments import IMAGES
from src.mlops.preprocessing import open_image

logger = logging.getLogger(__name__)
MAX_SIDE = 512  # px; larger images are scaled down
_SAVED = 50.0  # images that can be stored at once after a time with few of them
_RESERVED = 25.0  # of these, the ones that only uncertain and unknown images can use


class Sampler:
    """Chooses the images to store: on average at most `share` of all, uncertain and unknown ones first.

    Each image earns `share`, and storing one costs 1 (a token bucket). An image that is unknown, or whose prediction
    set does not have exactly one class, is stored whenever the balance allows. All others are drawn at random while
    the balance is high.

    Args:
        share: 0 to 1.
        random_share: Returns a random number, 0 to below 1.
    """

    def __init__(self, share: float, random_share: "random.Random | None" = None) -> None:
        self._share = share
        self._random = random_share or random.Random()  # noqa: S311 - not a secret
        self._balance = _SAVED if share else 0.0

    def chooses(self, prediction: Prediction) -> bool:
        """Decides about the image of a prediction."""
        self._balance = min(self._balance + self._share, _SAVED)
        if prediction.is_unknown or len(prediction.prediction_set) != 1:
            chosen = self._balance >= 1
        else:
            chosen = self._balance >= 1 + _RESERVED * (self._share < 1) and self._random.random() < self._share
        self._balance -= chosen
        return chosen


def image_name(time: float, record_id: str, request_id: str) -> str:
    """Returns the name of a stored image. In sorted order, the oldest image is the first."""
    moment = datetime.fromtimestamp(time, UTC)
    return f"{IMAGES}/date={moment:%Y-%m-%d}/{moment:%Y%m%dT%H%M%S.%fZ}-{record_id}{image_ending(request_id)}"


def image_ending(request_id: str) -> str:
    """Returns the end of the names of all images of a request, which finds them also without their records."""
    return f"-{hashlib.sha256(request_id.encode()).hexdigest()[:16]}.png"


def store_image(folder: Path, name: str, content: bytes) -> None:
    """Writes an image as a PNG of its pixels only, at most 512 px wide and high.

    The uploaded file itself is not stored: it can contain the place and the time at which the photo was taken, and it
    comes from a stranger.

    Args:
        folder: The local folder of the log.
        name: Name of the image.
        content: The bytes of the uploaded file.

    Raises:
        ImageError: The file cannot be decoded.
        OSError: The image cannot be written.
    """
    image = open_image(content)
    image.info.clear()  # Pillow would write some of it
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")
    try:
        part.write_bytes(file.getvalue())
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def expire(storage: Storage, days: int, max_bytes: int) -> int:
    """Deletes images that are too old, and then the oldest ones until the rest is small enough.

    Args:
        storage: The log.
        days: Days for which an image is kept.
        max_bytes: Size of all images together.

    Returns:
        The number of deleted images.

    Raises:
        StorageError: The log cannot be read or written.
    """
    oldest = f"{IMAGES}/date={datetime.now(UTC) - timedelta(days=days):%Y-%m-%d}/"
    sizes = storage.sizes(IMAGES)
    total, deleted = sum(sizes.values()), 0
    for name, size in sizes.items():
        if name >= oldest and total <= max_bytes:
            break
        storage.remove(name)
        total -= size
        deleted += 1
    if deleted:
        logger.info("Deleted %d images of the prediction log: more than %d days or %d bytes", deleted, days, max_bytes)
    return deleted
