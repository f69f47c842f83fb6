"""The order of the review queue, drawn so that the labelled images allow unbiased estimates at any moment.

Priority sampling (Duffield, Lund and Thorup, "Priority sampling for estimation of arbitrary subset sums", J. ACM 54(6),
2007; Ohlsson's sequential Poisson sampling, 1998, is the same order). Each image has a weight: 1 if it is unknown or
uncertain, otherwise the doubt about it, but at least 1/20. Its place is a random number divided by this weight, and the
lowest places come first: mostly unknown and uncertain images, and now and then a certain one. If all images below a
place T are labelled, an image was among them with probability min(1, weight * T).
"""

import hashlib
from collections.abc import Iterable

from src.mlops.monitoring.recent import Recent

LEAST = 0.05  # weight of an image without any doubt; lower values would make accuracies very imprecise
ROUND = 20  # images that a reviewer gets together


def weight(record: Recent) -> float:
    """Returns the weight of an image, 1/20 to 1."""
    return 1.0 if record.is_uncertain else min(max(LEAST, 1 - record.probability), 1.0)


def place(record: Recent) -> float:
    """Returns the place of an image in the queue. It never changes, so all processes agree, and nothing is stored."""
    # Record IDs say nothing about images, and a hash spreads them evenly.
    draw = int.from_bytes(hashlib.sha256(record.record_id.encode()).digest()[:8]) / 2**64
    return draw / weight(record)


def next_round(records: Iterable[Recent]) -> list[Recent]:
    """Returns the images to label next, at most `ROUND`: unknown and least certain ones first."""
    first = sorted(records, key=lambda record: (place(record), record.record_id))[:ROUND]
    return sorted(first, key=lambda record: (not record.is_unknown, not record.is_uncertain, record.probability))


def reviewable(records: Iterable[Recent]) -> list[Recent]:
    """Returns the records with a stored image; all of them if no images are stored at all."""
    records = list(records)
    return [record for record in records if record.image] or records
