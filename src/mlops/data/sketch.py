"""Remembers which images a model was trained on, in at most 16 kB.

A bottom-k sketch of a set is the k smallest hashes of its members (Broder, "On the resemblance and containment of
documents", 1997). An image whose hash is not above the largest one in the sketch is in the set exactly if its hash is
in the sketch. As hashes are random, these images are a fair sample of all images. The hash of an image only depends on
its pixels (`packing.py`), so splits, names and folders do not matter.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from src.mlops.data.packing import Pack

SIZE = 1024  # hashes; of the 12,630 test images of GTSRB, about 330 can be compared with its 39,209 training images
FEW = 0.01  # share of images that may be used for training as well, such as identical images of two signs
_DIGITS = 16  # hexadecimal digits of a hash: 64 bits


class Overlap(NamedTuple):
    """How many of some images a model was trained on.

    Attributes:
        compared: Number of images that a sketch can find.
        seen: Number of them that the model was trained on.
    """

    compared: int
    seen: int

    @property
    def is_large(self) -> bool:
        """Whether the images say little about how well the model does on new ones."""
        return self.seen > FEW * self.compared


def sketch(hashes: Iterable[str]) -> str:
    """Returns the sketch of images, or of the images in other sketches (`members`)."""
    return "".join(sorted({digits[:_DIGITS] for digits in hashes})[:SIZE])


def members(of: str) -> list[str]:
    """Returns the hashes in a sketch, in ascending order."""
    return [of[start : start + _DIGITS] for start in range(0, len(of), _DIGITS)]


def overlap(of: str, hashes: Iterable[str]) -> Overlap:
    """Compares images with a sketch."""
    kept = members(of)
    found = {digits[:_DIGITS] for digits in hashes}
    compared = {digits for digits in found if len(kept) < SIZE or digits <= kept[-1]}
    return Overlap(len(compared), len(compared.intersection(kept)))


def sketch_of_training(provenance: Mapping[str, Any], pack: Pack) -> str | None:
    """Returns the sketch of the images that a model was trained on, or None if they cannot be known.

    Files of earlier releases have no sketch. They were trained on splits of the pack if they have its fingerprint.

    Args:
        provenance: The provenance in the file of the model.
        pack: The prepared data.
    """
    if "image_sketch" in provenance:
        recorded = provenance["image_sketch"]
        return None if recorded is None else str(recorded)
    if provenance.get("data_fingerprint") == pack.fingerprint:
        return sketch(pack.load(*provenance.get("trained_on", ["train"])).hashes)
    return None
