"""The sketch of the images that a model was trained on."""

import hashlib

import pytest

from src.mlops.data.sketch import SIZE, members, overlap, sketch


def hashes(start: int, end: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(start, end)]


def test_few_images_are_compared_exactly() -> None:
    of = sketch(hashes(0, 500))
    assert overlap(of, hashes(0, 100)) == (100, 100)
    assert overlap(of, hashes(400, 600)) == (200, 100)
    assert overlap(of, hashes(500, 600)) == (100, 0)
    assert not overlap(of, hashes(499, 600)).is_large
    assert overlap(of, hashes(498, 600)).is_large
    assert overlap(sketch([]), hashes(0, 10)) == (10, 0)


@pytest.mark.parametrize(("start", "share"), [(0, 1.0), (7_000, 0.5), (9_700, 0.05), (10_000, 0.0)])
def test_many_images_are_estimated(start: int, share: float) -> None:
    of = sketch(hashes(0, 10_000))
    assert len(of) == 16 * SIZE
    compared, seen = overlap(of, hashes(start, start + 6_000))
    assert compared == pytest.approx(0.6 * SIZE, rel=0.1)
    assert seen / compared == pytest.approx(share, abs=0.04)


def test_sketches_can_be_combined() -> None:
    a, b = hashes(0, 3_000), hashes(2_000, 9_000)
    assert sketch([*members(sketch(a)), *b]) == sketch([*a, *b])
