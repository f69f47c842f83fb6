"""Finds recorded images for labels, and gives different ones to reviewers who work at the same time."""

import threading
import time
from collections.abc import Callable

from starlette.exceptions import HTTPException

from src.mlops.data.classes import ClassList
from src.mlops.errors import MissingFileError
from src.mlops.monitoring.images import is_image_name
from src.mlops.monitoring.labels import Labels
from src.mlops.monitoring.prediction_log import PredictionLog
from src.mlops.monitoring.recent import Recent, RecentRecords
from src.mlops.monitoring.review_order import next_round

HELD_SECONDS = 300.0  # for which no other reviewer gets the same images


class ReviewDesk:
    """The recent records of a log and their labels.

    Args:
        log: The prediction log.
        days: Number of days to search.

    Attributes:
        recent: The records.
        labels: The labels.
    """

    def __init__(self, log: PredictionLog, days: int) -> None:
        self.recent = RecentRecords(log.storages, days)
        self.labels = Labels(log.storages[0])
        self._storages = log.storages
        self._held: dict[str, tuple[str, float]] = {}  # record → the reviewer who has it, and until when
        self._lock = threading.Lock()

    def next_for(self, reviewer: str, waiting: list[Recent]) -> list[Recent]:
        """Returns the next images for one reviewer, without those that another one has, unless there are no others."""
        with self._lock:
            now = time.monotonic()
            self._held = {key: held for key, held in self._held.items() if held[1] > now}
            free = [one for one in waiting if self._held.get(one.record_id, (reviewer, now))[0] == reviewer]
            chosen = next_round(free) or next_round(waiting)
            self._held |= {one.record_id: (reviewer, now + HELD_SECONDS) for one in chosen}
        return chosen

    def one(self, wanted: Callable[[Recent], bool], classes: ClassList, image: str) -> Recent:
        """Returns the only record that fulfils a condition.

        Args:
            wanted: The condition.
            classes: The class list of the loaded model.
            image: What is searched, at the beginning of a message.

        Raises:
            HTTPException: 404, there is none; 409, there are several, or the record has other classes.
        """
        found = self.recent.find(wanted)
        if not found:
            raise HTTPException(
                404,
                f"{image} is not recorded. It can be older than the days that are searched, erased, or so new that it "
                "is not written yet; then try again in a few seconds.",
            )
        if len(found) > 1:
            raise HTTPException(
                409,
                f"{image} is recorded {len(found)} times, because the ID was used more than once. These images can "
                "only be labelled on the review page.",
            )
        if found[0].class_list != classes.fingerprint:
            raise HTTPException(
                409,
                f"{image} was classified by a model with other classes ({found[0].class_list}) than the loaded one "
                f"({classes.fingerprint}).",
            )
        return found[0]

    def image(self, name: str) -> bytes | None:
        """Returns a stored image; None if it was deleted meanwhile."""
        if not is_image_name(name):
            return None
        for storage in self._storages:
            try:
                return storage.read(name)
            except MissingFileError:
                continue
        return None
