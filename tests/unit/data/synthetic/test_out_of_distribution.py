"""Tests the synthetic OOD images."""

from src.mlops.data.synthetic.out_of_distribution import draw_unknowns


def test_many_kinds_of_images_without_a_known_sign() -> None:
    drawn, again = draw_unknowns(3, seed=1), draw_unknowns(3, seed=1)
    assert len(drawn) >= 7
    for kind, images in drawn.items():
        assert [image.size for image in images] == [(64, 64)] * 3, kind
        assert [image.tobytes() for image in images] == [image.tobytes() for image in again[kind]]
        assert len({image.tobytes() for image in images}) == 3


def test_more_images_do_not_change_the_first_ones() -> None:
    few, many = draw_unknowns(2, seed=5), draw_unknowns(4, seed=5)
    for kind, images in few.items():
        assert [image.tobytes() for image in images] == [image.tobytes() for image in many[kind][:2]], kind
