"""The order of the review queue, drawn so that the labelled images allow unbiased estimates at any moment.

Of every 20 images, 16 are unknown or uncertain and 4 are certain, as long as there are both. Within each of the two
kinds, the order is that of priority sampling (Duffield, Lund and Thorup, "Priority sampling for estimation of arbitrary
subset sums", J. ACM 54(6), 2007; Ohlsson's sequential Poisson sampling, 1998, is the same order): each image has a
weight, the doubt about it, and its place is a random number divided by this weight. The lowest places come first. If
all images of one kind below a place T are labelled, an image was among them with probability min(1, weight * T).
"""

import hashlib
from collections.abc import Iterable

from src.mlops.monitoring.recent import Recent

LEAST = 0.1  # weight of an image without any doubt; lower values would make accuracies less precise
ROUND = 20  # images that a reviewer gets together
CERTAIN = 4  # of these, the certain ones


def weight(record: Recent) -> float:
    """Returns the weight of an image, 0.1 to 1."""
    return 1.0 if record.is_unknown else min(max(LEAST, 1 - record.probability), 1.0)


def place(record: Recent) -> float:
    """Returns the place of an image among those of its kind.

    It never changes, so all processes agree, and nothing is stored.
    """
    # Record IDs say nothing about images, and a hash spreads them evenly.
    draw = int.from_bytes(hashlib.sha256(record.record_id.encode()).digest()[:8]) / 2**64
    return draw / weight(record)


def next_round(records: Iterable[Recent]) -> list[Recent]:
    """Returns the images to label next, at most `ROUND`: unknown and least certain ones first."""
    ordered = sorted(records, key=lambda record: (place(record), record.record_id))
    uncertain = [record for record in ordered if record.is_uncertain]
    certain = [record for record in ordered if not record.is_uncertain]
    few = min(CERTAIN, len(certain)) if len(uncertain) >= ROUND - CERTAIN else ROUND - len(uncertain)
    chosen = uncertain[: ROUND - min(few, len(certain))] + certain[:few]
    return sorted(chosen, key=lambda record: (not record.is_unknown, not record.is_uncertain, record.probability))


def reviewable(records: Iterable[Recent]) -> list[Recent]:
    """Returns the records with a stored image; all of them if no images are stored at all."""
    records = list(records)
    return [record for record in records if record.image] or records
