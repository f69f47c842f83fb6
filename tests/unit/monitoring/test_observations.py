"""Clusters of records that show one physical sign."""

import numpy as np

from src.mlops.monitoring.observations import clusters


def _clusters(time: list[float], predicted: list[int], embedding: list[list[float]] | None = None, **limits: float):
    given = np.ones((len(time), 2)) if embedding is None else np.array(embedding)
    return clusters(np.array(time, float), np.array(predicted), given, **limits).tolist()


class TestClusters:
    def test_frames_of_one_sign_belong_together(self) -> None:
        assert _clusters([0, 1, 2, 3], [7, 7, 7, 7]) == [0, 0, 0, 0]

    def test_two_signs_at_the_same_time(self) -> None:
        assert _clusters([0, 0, 1, 1, 2, 2], [7, 3, 7, 3, 7, 3]) == [0, 1, 0, 1, 0, 1]

    def test_a_pause_starts_another_sign(self) -> None:
        assert _clusters([0, 1, 9, 10], [7, 7, 7, 7]) == [0, 0, 1, 1]

    def test_different_images_are_different_signs(self) -> None:
        assert _clusters([0, 1, 2], [7, 7, 7], [[1, 0], [0, 1], [0, 1]]) == [0, 1, 1]

    def test_a_car_that_stands_still_gives_more_than_one(self) -> None:
        assert len(set(_clusters(list(range(200)), [7] * 200, longest=60))) == 4

    def test_each_record_alone(self) -> None:
        assert _clusters([0, 0, 0], [7, 7, 7], seconds=0) == [0, 1, 2]

    def test_no_records(self) -> None:
        assert _clusters([], [], []) == []
