"""Tests the synthetic OOD images."""

from src.mlops.data.synthetic.out_of_distribution import draw_unknowns


def test_many_kinds_of_images_without_a_known_sign() -> None:
    drawn, again = draw_unknowns(3, seed=1), draw_unknowns(3, seed=1)
    assert len(drawn) >= 7
    for kind, images in drawn.items():
        assert [image.size for image in images] == [(64, 64)] * 3, kind
        assert [image.tobytes() for image in images] == [image.tobytes() for image in again[kind]]
        assert len({image.tobytes() for image in images}) == 3
