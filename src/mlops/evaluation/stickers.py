"""Puts drawn stickers on signs, and measures how a model classifies them.

Eykholt et al., "Robust Physical-World Attacks on Deep Learning Visual Classification", 2018, print black and white
stickers whose places are found with a saliency map and whose pattern is optimised until the network is wrong. Here
nothing is optimised: the stickers have one random colour each, so the results are no bound for such an attack. All
functions work on batches, uint8 [N, S, S, 3].
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.mlops.evaluation.corruptions import Pixels
from src.mlops.inference.classifier import Classifier, Outputs
from src.mlops.inference.explain import saliency
from src.mlops.io.progress import progress_bar

SHARES = (0.05, 0.1, 0.2)  # of the sign that the stickers cover together
STICKERS = 3  # per sign
# Of the disc that is taken for the sign, as a share of the side of the image: packed images have no record of where the
# sign is, but the crops of GTSRB have a border of 10 % on each side, and most signs are round.
DIAMETER = 0.8
BATCH = 200


def measure_stickers(classifier: Classifier, images: Pixels, labels: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Classifies images without and with stickers.

    Args:
        classifier: The model.
        images: uint8 [N, S, S, 3], where S is the image size of the model.
        labels: Class of each image, int64 [N].

    Returns:
        A row for each version of the images: `placement` (`none`, `random` or `saliency`), `share` of the sign that is
        covered, `accuracy` whether or not the image is flagged as unknown, the share `called_unknown`, and the share
        `wrong_not_unknown` that is misclassified without being flagged. No row for `saliency` if the network does not
        support saliency maps.
    """
    found: dict[tuple[str, float], list[NDArray[np.bool_]]] = {}
    with progress_bar("classifying images with stickers", len(images)) as bar:
        for start in range(0, len(images), BATCH):
            batch, truth = images[start : start + BATCH], labels[start : start + BATCH]
            clean = classifier.run(batch)
            found.setdefault(("none", 0.0), []).append(_judged(classifier, clean, truth))
            for placement, share, covered in sticker_versions(batch, clean, seed=start):
                judged = _judged(classifier, classifier.run(covered), truth)
                found.setdefault((placement, share), []).append(judged)
            bar.update(len(batch))
    rows = []
    for (placement, share), parts in found.items():
        right, unknown = np.concatenate(parts, axis=1)
        rows.append(
            {
                "placement": placement,
                "share": share,
                "accuracy": float(right.mean()),
                "called_unknown": float(unknown.mean()),
                "wrong_not_unknown": float((~right & ~unknown).mean()),
            }
        )
    return rows


def _judged(classifier: Classifier, outputs: Outputs, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns whether each image is classified correctly, and whether it is flagged as unknown, bool [2, N]."""
    right = outputs.probabilities.argmax(axis=1) == labels
    return np.stack([right, classifier.info.calibration.is_unknown(outputs.probabilities, outputs.energy)])


def sticker_versions(images: Pixels, outputs: Outputs, seed: int = 0) -> Iterator[tuple[str, float, Pixels]]:
    """Yields a batch with stickers at random places and at the most salient ones, for each of `SHARES`.

    An image has the same stickers in all versions. Only their places and sizes differ.

    Args:
        images: uint8 [N, S, S, 3].
        outputs: What the model returns for them. Without `evidence`, there are only stickers at random places.
        seed: Seed of the random numbers.

    Yields:
        The placement (`random` or `saliency`), the share of the sign that is covered, and uint8 [N, S, S, 3].
    """
    side = images.shape[1]
    anywhere = random_places(len(images), side, np.random.default_rng([seed, 0]))
    for share in SHARES:
        yield "random", share, put_stickers(images, share, anywhere, np.random.default_rng([seed, 1]))
    if outputs.evidence is not None:
        predicted = outputs.probabilities.argmax(axis=1)
        maps = [saliency(one[c], (side, side)) for one, c in zip(outputs.evidence, predicted, strict=True)]
        for share in SHARES:
            places = salient_places(np.stack(maps), share)
            yield "saliency", share, put_stickers(images, share, places, np.random.default_rng([seed, 1]))


def random_places(count: int, side: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns places on the sign, all equally likely: row and column in px, int64 [count, STICKERS, 2]."""
    return np.argwhere(_sign(side))[rng.integers(_sign(side).sum(), size=(count, STICKERS))]


def salient_places(maps: NDArray[np.float32], share: float) -> NDArray[np.int64]:
    """Returns the most salient places on the sign, one after the other, so far apart that stickers do not overlap.

    Args:
        maps: Saliency of each pixel, float32 [N, S, S].
        share: Share of the sign that the stickers cover together, above 0 and at most 1.

    Returns:
        Row and column in px, int64 [N, STICKERS, 2].

    Raises:
        ValueError: The share is out of range.
    """
    _require_share(share)
    count, side = maps.shape[:2]
    sign = _sign(side)
    apart = 2 * math.sqrt(share * sign.sum() / STICKERS / math.pi)
    left = np.where(sign, maps, -np.inf)
    places = np.empty((count, STICKERS, 2), np.int64)
    rows, columns = np.mgrid[:side, :side]
    for number in range(STICKERS):
        places[:, number] = np.stack(np.divmod(left.reshape(count, -1).argmax(axis=1), side), axis=1)
        row, column = places[:, number].T[..., None, None]
        left[np.hypot(rows - row, columns - column) < apart] = -np.inf
    return places


def put_stickers(images: Pixels, share: float, places: NDArray[np.int64], rng: np.random.Generator) -> Pixels:
    """Covers a share of each sign with opaque stickers: rectangles and discs, a quarter black and a quarter white.

    Args:
        images: uint8 [N, S, S, 3].
        share: Share of the sign that the stickers of an image cover together, above 0 and at most 1.
        places: Row and column of the centre of each sticker in px, int64 [N, K, 2].
        rng: Decides on shapes, relative sizes, angles and colours.

    Returns:
        uint8 [N, S, S, 3].

    Raises:
        ValueError: The share is out of range.
    """
    _require_share(share)
    (count, side), stickers = images.shape[:2], places.shape[1]
    sign = _sign(side)
    nearest, distance = _nearest(places, np.argwhere(sign), rng)
    # All stickers of an image grow until they cover the share, whatever their overlap and the edge of the sign.
    covered = np.argsort(distance, axis=1)[:, : max(1, round(share * sign.sum()))]
    kinds = rng.integers(4, size=(count, stickers, 1))
    paint = np.where(kinds == 0, 0.05, np.where(kinds == 1, 1.0, rng.uniform(0.05, 1, (count, stickers, 3))))
    # A sticker hangs in the same light as the sign: white is as bright as the brightest part of the image.
    light = np.quantile(images.reshape(count, -1), 0.99, axis=1)[:, None, None]
    number = np.arange(count)[:, None]
    pixels = images[:, sign]
    pixels[number, covered] = (light * paint)[number, nearest[number, covered]]
    result = images.copy()
    result[:, sign] = pixels
    return result


def _nearest(
    places: NDArray[np.int64], pixels: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns the nearest sticker of each pixel, and its distance in units of the size of the sticker, [N, P] each."""
    shape = (*places.shape[:2], 1)
    angle, size = np.radians(rng.uniform(-20, 20, shape)), rng.uniform(0.7, 1.3, shape)
    stretch = np.exp(rng.uniform(-0.35, 0.35, shape))  # sides of up to 2 : 1
    is_disc = rng.random(shape) < 0.3
    down, right = (pixels[:, axis] - places[..., axis, None] for axis in (0, 1))
    across = (np.cos(angle) * right + np.sin(angle) * down) * stretch
    along = (np.cos(angle) * down - np.sin(angle) * right) / stretch
    rectangle = np.maximum(np.abs(across), np.abs(along))
    distances = np.where(is_disc, np.hypot(right, down), rectangle) / size
    return distances.argmin(axis=1), distances.min(axis=1)


def _sign(side: int) -> NDArray[np.bool_]:
    """Returns which pixels of an image are taken for the sign, bool [side, side]."""
    place = np.arange(side) - (side - 1) / 2
    return np.asarray(np.hypot(place, place[:, None]) <= DIAMETER * side / 2)


def _require_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"the share of the sign that stickers cover must be above 0 and at most 1, but is {share!r}")
