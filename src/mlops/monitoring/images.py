"""Images next to the prediction log, if they are switched on: which are stored, in which form, and for how long."""

import hashlib
import io
import logging
import random
import re
from collections.abc import Sequence
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
_FOR_ALL = 0.2  # of the share: with this probability, any image is stored


class Sampler:
    """Chooses the images to store: on average at most `share` of all, uncertain and unknown ones first.

    A fifth of the share is for all images alike, so that each has a chance even if most are uncertain, as in fog. The
    rest is a token bucket: each image earns a part of it, and storing one costs 1. An image that is unknown, or whose
    prediction set does not have exactly one class, is stored whenever the balance allows. Others are drawn with a
    higher probability while the balance is high.

    Args:
        share: 0 to 1.
        random_share: Returns a random number, 0 to below 1.
    """

    def __init__(self, share: float, random_share: "random.Random | None" = None) -> None:
        self._share = share
        self._least = share if share == 1 else share * _FOR_ALL  # probability of every image
        self._random = random_share or random.Random()  # noqa: S311 - not a secret
        self._balance = _SAVED if share else 0.0

    def chooses(self, prediction: Prediction) -> tuple[bool, float]:
        """Decides about the image of a prediction.

        Returns:
            Whether to store the image, and the probability of this decision before the draw, 0 to 1. Estimates from
            stored images need it, because uncertain images are over-represented.
        """
        self._balance = min(self._balance + self._share - self._least, _SAVED)
        uncertain = is_uncertain(prediction.is_unknown, prediction.prediction_set)
        probability = self._least
        if self._balance >= (1 if uncertain else 1 + _RESERVED):
            probability = 1.0 if uncertain else self._share
        chosen = self._random.random() < probability
        if chosen and probability > self._least:
            self._balance -= 1
        return chosen, probability


def is_uncertain(is_unknown: bool, prediction_set: Sequence[int]) -> bool:
    """Returns whether an image is unknown, or its prediction set does not have exactly one class."""
    return is_unknown or len(prediction_set) != 1


def image_name(time: float, record_id: str, request_id: str) -> str:
    """Returns the name of a stored image. In sorted order, the oldest image is the first."""
    moment = datetime.fromtimestamp(time, UTC)
    return f"{IMAGES}/date={moment:%Y-%m-%d}/{moment:%Y%m%dT%H%M%S.%fZ}-{record_id}{image_ending(request_id)}"


def is_image_name(name: object) -> bool:
    """Returns whether a name can be that of a stored image. Anybody who can write into a log could name other files."""
    return isinstance(name, str) and re.fullmatch(IMAGES + r"/date=\d{4}-\d\d-\d\d/[\w.-]+\.png", name) is not None


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
