"""Labels of recorded images, stored next to the prediction log: one small file per decision, which never changes.

`labels/9f86d081884c7d65/4f0c9a61b2d7e3a1-0002.json` is the second decision about one image. The folder is the hash of
the request ID, which finds all labels of a request, and the file name has the hash of the record ID. Creating a file
that exists fails, in a folder as well as in a bucket, so if two processes decide at the same time, the slower one sees
the other's decision, and none is lost.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from src.mlops.errors import DataError, FileExistsInStorageError, MissingFileError
from src.mlops.io.storage import Storage
from src.mlops.monitoring.segments import LABELS

logger = logging.getLogger(__name__)
MAX_DECISIONS = 50  # about one image; clients must not be able to fill the disk
_READERS = 16  # files of a bucket that are read at the same time
Verdict = Literal["class", "none", "unclear", "withdrawn"]
Source = Literal["feedback", "review"]


class Subject(NamedTuple):
    """The record that a label is about: fields of docs/reference/prediction-log.md."""

    record_id: str
    request_id: str
    image_number: int
    class_list: str


class Decision(NamedTuple):
    """What somebody says about an image.

    Attributes:
        verdict: The image shows a class; none of the classes; cannot be judged; or the label before is withdrawn.
        class_id: The true class; None for the other verdicts.
        class_name: Its name. Another model can have other IDs.
        source: `review` by the review page, `feedback` by a client.
    """

    verdict: Verdict
    class_id: int | None
    class_name: str | None
    source: Source


class Label(BaseModel):
    """A stored decision."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    number: int = Field(ge=1)
    time: AwareDatetime
    record_id: str
    request_id: str
    image_number: int
    class_list: str
    verdict: Verdict
    class_id: int | None
    class_name: str | None
    source: Source

    @property
    def label_id(self) -> str:
        """Returns an ID that is unique among all labels."""
        return f"{_hash(self.record_id)}-{self.number:04d}"


class ContradictionError(DataError):
    """A decision does not fit to those that are stored already.

    Attributes:
        history: All decisions about the image, the oldest first.
    """

    def __init__(self, message: str, history: list[Label]) -> None:
        super().__init__(message)
        self.history = history


class Added(NamedTuple):
    """The result of `Labels.add`: the label, the one that stood before, and whether a file was written."""

    label: Label
    previous: Label | None
    is_new: bool


class Labels:
    """The labels of a prediction log. Files that were read once are not read again.

    Args:
        storage: The storage of the log.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._read: dict[str, Label | None] = {}

    def add(self, subject: Subject, decision: Decision, expected: str | None = "") -> Added:
        """Appends a decision. Nothing is written if the same one stands already, so a double click has no effect.

        Args:
            subject: The labelled record.
            decision: What is said about it.
            expected: ID of the last decision that the caller knows, None if it knows none; empty: any.

        Raises:
            ContradictionError: There is another decision than the expected one; or the decision is feedback, and a
                reviewer has labelled the image.
            StorageError: The label cannot be written.
        """
        while True:
            names = self._names(subject)
            history = list(self._labels(names))
            last, standing = history[-1] if history else None, standing_label(history)
            repeated = _repeated(history, decision)
            if repeated:
                return Added(repeated, standing, is_new=False)
            if expected != "" and expected != (last.label_id if last else None):
                raise ContradictionError("Somebody else has labelled this image meanwhile.", history)
            if decision.source == "feedback" and standing and standing.source == "review":
                raise ContradictionError(
                    f"A reviewer has labelled this image as {described(standing)}, which feedback cannot change.",
                    history,
                )
            if len(history) >= MAX_DECISIONS:
                raise ContradictionError(f"This image has {len(history)} labels already. No more are stored.", history)
            number = 1 + max((_number(name) for name in names), default=0)  # also if a file is damaged
            label = Label(number=number, time=datetime.now(UTC), **subject._asdict(), **decision._asdict())
            try:
                self._storage.create(_name(label), label.model_dump_json().encode())
            except FileExistsInStorageError:
                continue  # another process was faster: decide with its label in mind
            return Added(label, standing, is_new=True)

    def of(self, subject: Subject) -> list[Label]:
        """Returns all decisions about one record, the oldest first."""
        return list(self._labels(self._names(subject)))

    def all(self) -> dict[str, list[Label]]:
        """Returns all decisions by record ID, the oldest first."""
        found: dict[str, list[Label]] = {}
        names = self._storage.names(LABELS)
        for label in self._labels(names):
            found.setdefault(label.record_id, []).append(label)
        self._read = {name: self._read[name] for name in names}  # without those that were erased
        return found

    def _names(self, subject: Subject) -> list[str]:
        folder = f"{LABELS}/{_hash(subject.request_id)}"
        start = f"{folder}/{_hash(subject.record_id)}-"
        return [name for name in self._storage.names(folder) if name.startswith(start) and _number(name)]

    def _labels(self, names: list[str]) -> Iterator[Label]:
        new = [name for name in names if name not in self._read]
        if len(new) > 1:
            with ThreadPoolExecutor(_READERS) as pool:
                self._read.update(zip(new, pool.map(self._one, new), strict=True))
        elif new:
            self._read[new[0]] = self._one(new[0])
        yield from filter(None, (self._read.get(name) for name in names))

    def _one(self, name: str) -> Label | None:
        try:
            label = Label.model_validate_json(self._storage.read(name))
            if name == _name(label):
                return label
            reason = "it belongs to another record"
        except MissingFileError:
            return None  # erased meanwhile
        except ValidationError as error:
            reason = f"{error.error_count()} of its values are missing or impossible"
        logger.warning("Skipped the label %s/%s: %s", self._storage.url, name, reason)
        return None


def standing_label(history: Iterable[Label]) -> Label | None:
    """Returns the label that counts: the last one. Withdrawing it restores the one before."""
    standing: list[Label] = []
    for label in history:
        if label.verdict != "withdrawn":
            standing.append(label)
        elif standing:
            standing.pop()
    return standing[-1] if standing else None


def described(label: Label) -> str:
    """Says what a label says, for messages."""
    if label.verdict == "class":
        return repr(label.class_name)
    return "none of the classes" if label.verdict == "none" else "unclear"


def erase_labels(storage: Storage, request_id: str) -> int:
    """Deletes the labels of a request. Returns their number."""
    names = storage.names(f"{LABELS}/{_hash(request_id)}")
    for name in names:
        storage.remove(name)
    return len(names)


def _repeated(history: list[Label], decision: Decision) -> Label | None:
    """Returns the last decision if a new one would not change anything."""
    last = history[-1] if history else None
    if decision.verdict == "withdrawn":
        if last is None:
            raise ContradictionError("There is no label to withdraw.", history)
        return last if last.verdict == "withdrawn" else None
    standing = standing_label(history)
    if standing is None or (standing.verdict, standing.class_id) != (decision.verdict, decision.class_id):
        return None
    confirms = standing.source == "feedback" and decision.source == "review"  # worth keeping
    return None if confirms else standing


def _name(label: Label) -> str:
    return f"{LABELS}/{_hash(label.request_id)}/{label.label_id}.json"


def _number(name: str) -> int:
    """Returns the number of a decision by the name of its file; 0 for other files."""
    found = re.fullmatch(r".*-(\d{4})\.json", name)
    return int(found[1]) if found else 0


def _hash(text: str) -> str:
    """Returns 16 hex digits. IDs in the files of a log can contain anything, also `../`."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
