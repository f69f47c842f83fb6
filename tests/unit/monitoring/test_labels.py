"""Tests the order of the review queue, the accuracy of labelled traffic, and the export of labels."""

import csv
import dataclasses
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.layouts import read_layout
from src.mlops.errors import DataError, StorageError
from src.mlops.io.storage import Folder
from src.mlops.monitoring.compact import compact
from src.mlops.monitoring.erase import erase
from src.mlops.monitoring.images import image_ending
from src.mlops.monitoring.label_commands import app
from src.mlops.monitoring.label_export import TABLE, export
from src.mlops.monitoring.labelled_accuracy import LabelledAccuracy, labelled_accuracy
from src.mlops.monitoring.labels import Decision, Labels, Source
from src.mlops.monitoring.read import read_records
from src.mlops.monitoring.recent import Recent
from src.mlops.monitoring.record import json_lines
from src.mlops.monitoring.review_order import LEAST, next_round, place, weight
from src.mlops.monitoring.segments import LABELS
from tests.helpers.images import encode, make_image
from tests.helpers.recording import batch, prediction, store_segment

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()
STOP, YIELD = 14, 13
PNG = encode(make_image(1), "PNG")


@dataclasses.dataclass
class Sent:
    """One recorded image."""

    truth: int | None = STOP  # None: none of the classes
    answer: int = STOP
    seconds: float = 0  # after noon
    sign: int = 0  # direction of its embedding
    uncertain: bool = False
    unknown: bool = False
    probability: float = 0.99
    stored: float | None = None  # image_probability; the image is there
    version: str = "0123456789ab"
    image: bytes = b""  # empty: another one than all others


def record(folder: Path, sent: Iterable[Sent], name: str = "a") -> list[Recent]:
    """Writes a segment. Returns its records in the same order."""
    sent = list(sent)
    lines: list[bytes] = []
    for number, one in enumerate(sent):
        kept = [one.answer, 1] if one.uncertain else [one.answer]
        answer = dataclasses.replace(
            prediction(one.answer, kept=kept, is_unknown=one.unknown),
            probability=one.probability,
            model_version=one.version,
        )
        single = batch(f"{name}{number}", predictions=[answer], moment=NOON + one.seconds)
        origin = single.origins[0]._replace(image_probability=one.stored)
        embedding = np.eye(8, dtype=np.float32)[[one.sign % 8]]
        image = None
        if one.stored:
            image = f"images/date=2026-11-28/{name}{number}{image_ending(origin.request_id)}"
            Folder(folder).write(image, one.image or PNG + f"{name}{number}".encode())
        single = single._replace(origins=[origin], embedding=embedding)
        lines += json_lines([single], iter([f"record-{name}{number}"]), [image]).splitlines()
    store_segment(str(folder), name, lines)
    found = {row["record_id"]: Recent.of(row) for row in read_records(str(folder))}
    return [found[f"record-{name}{number}"] for number in range(len(sent))]


def label(folder: Path, found: Recent, truth: int | None, source: Source = "review") -> None:
    decision = Decision("none", None, None, source)
    if truth is not None:
        decision = Decision("class", truth, SIGNS[truth].name, source)
    Labels(Folder(folder)).add(found.subject, decision)


def unclear(folder: Path, found: Recent) -> None:
    Labels(Folder(folder)).add(found.subject, Decision("unclear", None, None, "review"))


def traffic(count: int, wrong: Callable[[int], bool] = lambda _: False, **more: Any) -> list[Sent]:
    """Returns certain images and, for every fifth, uncertain ones; each shows another sign."""
    return [
        Sent(
            answer=YIELD if wrong(number) else STOP,
            seconds=10 * number,
            uncertain=number % 5 == 0,
            probability=0.4 if number % 5 == 0 else 0.999,
            **more,
        )
        for number in range(count)
    ]


def label_first(folder: Path, sent: list[Sent], records: list[Recent], count: int) -> list[Recent]:
    """Labels the first images of the queue with the truth. Returns the others."""
    truths = {one.record_id: image.truth for one, image in zip(records, sent, strict=True)}
    waiting = list(records)
    while waiting and len(records) - len(waiting) < count:
        for one in next_round(waiting):
            label(folder, one, truths[one.record_id])
            waiting.remove(one)
    return waiting


class TestOrder:
    def test_uncertain_images_are_preferred_by_a_known_factor(self, tmp_path: Path) -> None:
        kinds = [
            Sent(unknown=True),
            Sent(uncertain=True, probability=0.4),
            Sent(probability=0.7),
            Sent(probability=1.0),
        ]
        assert [weight(one) for one in record(tmp_path, kinds)] == [1, pytest.approx(0.6), pytest.approx(0.3), LEAST]

    def test_places_are_uniform_and_never_change(self, tmp_path: Path) -> None:
        [one] = record(tmp_path, [Sent(unknown=True)])
        places = np.array([place(one._replace(record_id=f"4f0c9a61b2d7-{number:x}")) for number in range(10_000)])
        assert np.histogram(places, 10, (0, 1))[0] == pytest.approx(1000, abs=150)
        assert place(one._replace(record_id="4f0c9a61b2d7-0")) == places[0]

    def test_a_round_shows_unknown_images_first(self, tmp_path: Path) -> None:
        kinds = [Sent(probability=0.6), Sent(uncertain=True), Sent(unknown=True), Sent(probability=0.5)]
        records = record(tmp_path, kinds)
        assert next_round(records) == [records[number] for number in (2, 1, 3, 0)]

    @pytest.mark.parametrize(
        ("uncertain", "certain", "shown"),
        [(100, 100, 16), (100, 2, 18), (5, 100, 5), (0, 9, 0), (30, 0, 20), (0, 0, 0)],
    )
    def test_a_round_has_both_kinds(self, tmp_path: Path, uncertain: int, certain: int, shown: int) -> None:
        [one, other] = record(tmp_path, [Sent(uncertain=True), Sent()])
        records = [one._replace(record_id=f"u{number}") for number in range(uncertain)]
        records += [other._replace(record_id=f"c{number}") for number in range(certain)]
        found = next_round(records)
        assert len(found) == min(20, uncertain + certain)
        assert sum(entry.is_uncertain for entry in found) == shown


class TestAccuracy:
    def test_weights_remove_the_bias(self, tmp_path: Path) -> None:
        sent = traffic(1000, wrong=lambda number: number % 5 == 0 and number % 10 == 0)  # half of the uncertain ones
        records = record(tmp_path, sent)
        label_first(tmp_path, sent, records, 300)
        found = labelled_accuracy(str(tmp_path))
        assert found.raw < 0.75
        assert found.accuracy == pytest.approx(0.9, abs=0.02)
        assert found.low < 0.9 < found.high
        assert (found.images, found.labels, found.unused) == (1000, 300, 0)

    def test_images_that_were_stored_with_different_probabilities(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        sent = traffic(2000, wrong=lambda number: number % 5 == 0 or number % 20 == 1)
        for one in sent:
            # In the second half, storing was less probable.
            chance = 1.0 if one.uncertain else (0.4 if one.seconds < 10_000 else 0.1)
            one.stored = chance if rng.random() < chance else None
        records = record(tmp_path, sent)
        stored = [position for position, one in enumerate(sent) if one.stored]
        label_first(tmp_path, [sent[position] for position in stored], [records[position] for position in stored], 600)
        found = labelled_accuracy(str(tmp_path))
        assert found.accuracy == pytest.approx(0.75, abs=0.03)
        assert found.raw < 0.5

    def test_everything_right_is_no_proof(self, tmp_path: Path) -> None:
        sent = traffic(50)
        label_first(tmp_path, sent, record(tmp_path, sent), 50)
        found = labelled_accuracy(str(tmp_path))
        assert (found.accuracy, found.high) == (1, 1)
        assert 0.85 < found.low < 0.99

    def test_frames_of_one_sign_count_once(self, tmp_path: Path) -> None:
        sent = [Sent(seconds=number / 10) for number in range(30)]
        label_first(tmp_path, sent, record(tmp_path, sent), 30)
        found, alone = labelled_accuracy(str(tmp_path)), labelled_accuracy(str(tmp_path), cluster_seconds=0)
        assert (found.signs, alone.signs) == (1, 30)
        assert found.low < 0.3 < 0.8 < alone.low

    def test_images_of_no_class_are_right_if_they_are_unknown(self, tmp_path: Path) -> None:
        sent = [Sent(truth=None, unknown=number > 0, seconds=10 * number, uncertain=True) for number in range(4)]
        label_first(tmp_path, sent, record(tmp_path, sent), 4)
        assert labelled_accuracy(str(tmp_path)).accuracy == 0.75

    def test_feedback_out_of_turn_has_no_weight(self, tmp_path: Path) -> None:
        sent = traffic(400, wrong=lambda number: number % 5 == 0)
        records = record(tmp_path, sent)
        waiting = label_first(tmp_path, sent, records, 100)
        before = labelled_accuracy(str(tmp_path))
        following = next_round(waiting)
        for one in waiting:  # only unhappy people answer
            if one in following:
                continue
            label(tmp_path, one, YIELD if one.predicted_class == STOP else STOP, "feedback")
        after = labelled_accuracy(str(tmp_path))
        assert (after.accuracy, after.labels, after.unused) == (before.accuracy, before.labels, 280)
        assert after.raw < before.raw

    def test_images_that_arrived_after_the_review(self, tmp_path: Path) -> None:
        sent = traffic(200)
        label_first(tmp_path, sent, record(tmp_path, sent), 100)
        record(tmp_path, [dataclasses.replace(one, seconds=one.seconds + 5000, unknown=True) for one in sent], "later")
        found = labelled_accuracy(str(tmp_path))
        assert (found.images, found.labels) == (200, 100)
        assert found.until == datetime.fromtimestamp(NOON, UTC) + timedelta(seconds=1990)

    def test_only_the_newest_model_is_judged(self, tmp_path: Path) -> None:
        old = traffic(20, wrong=lambda _: True)
        label_first(tmp_path, old, record(tmp_path, old, "old"), 20)
        new = [dataclasses.replace(one, seconds=one.seconds + 900, version="new") for one in traffic(20)]
        label_first(tmp_path, new, record(tmp_path, new, "new"), 20)
        found = labelled_accuracy(str(tmp_path))
        assert (found.model_version, found.accuracy, found.images) == ("new", 1, 20)
        assert labelled_accuracy(str(tmp_path), model_version="0123456789ab").accuracy == 0
        with pytest.raises(DataError, match="no records of the model other"):
            labelled_accuracy(str(tmp_path), model_version="other")

    def test_images_that_cannot_be_judged_are_missing(self, tmp_path: Path) -> None:
        sent = traffic(40)
        records = record(tmp_path, sent)
        unclear(tmp_path, records[0])
        label_first(tmp_path, sent[1:], records[1:], 39)
        found = labelled_accuracy(str(tmp_path))
        assert (found.labels, found.unclear, found.accuracy) == (39, 1, 1)

    def test_without_labels(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="contains no records"):
            labelled_accuracy(str(tmp_path))
        record(tmp_path, traffic(10))
        with pytest.raises(DataError, match=r"is labelled\. Label some at /review"):
            labelled_accuracy(str(tmp_path))

    def test_with_labels_of_uncertain_images_only(self, tmp_path: Path) -> None:
        sent = traffic(100)
        records = record(tmp_path, sent)
        for one in records:
            if one.is_uncertain:
                label(tmp_path, one, STOP)
        with pytest.raises(
            DataError, match=r"None of the certain images, (7\d|80).\d% of all, is labelled in the order"
        ):
            labelled_accuracy(str(tmp_path))

    def test_the_interval_covers_the_truth(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(1)
        covered = 0
        for run in range(10):
            folder = tmp_path / str(run)
            wrong = rng.random(300) < np.where(np.arange(300) % 5, 0.05, 0.5)
            sent = traffic(300, wrong=lambda number, wrong=wrong: bool(wrong[number]))  # type: ignore[misc]
            label_first(folder, sent, record(folder, sent, f"run{run}-"), 90)
            found = labelled_accuracy(str(folder))
            covered += found.low <= 1 - wrong.mean() <= found.high
        assert covered >= 8  # fewer have a probability of 1 %

    def test_a_compacted_log(self, tmp_path: Path) -> None:
        sent = traffic(30)
        label_first(tmp_path, sent, record(tmp_path, sent), 30)
        before: LabelledAccuracy = labelled_accuracy(str(tmp_path))
        assert compact(str(tmp_path)).days == 1
        assert labelled_accuracy(str(tmp_path)) == before


class TestExport:
    def test_the_preparation_reads_it(self, tmp_path: Path) -> None:
        sent = [Sent(truth=truth, seconds=10 * number, stored=1) for number, truth in enumerate([STOP, YIELD, STOP])]
        label_first(tmp_path / "log", sent, record(tmp_path / "log", sent), 3)
        done = export(str(tmp_path / "log"), tmp_path / "new" / "out")
        assert (done.images, done.groups, done.left_out) == (3, 3, {})
        assert done.classes == {"Stop": 2, "Yield": 1} or done.classes == {"Stop": 2, SIGNS[YIELD].name: 1}
        data = read_layout(tmp_path / "new" / "out")
        assert data.classes.names == sorted(["Stop", SIGNS[YIELD].name])
        assert (len(data.train), data.train["track_id"].nunique(), data.unlisted) == (3, 3, [])
        assert not [path for path in (tmp_path / "new").iterdir() if path.name.startswith(".")]

    def test_frames_of_one_sign_are_one_group(self, tmp_path: Path) -> None:
        one = [Sent(seconds=number / 2, stored=1) for number in range(4)]
        one[1].answer = YIELD  # a misclassified frame
        other = [Sent(seconds=number / 2, sign=3, stored=1) for number in range(4)]
        sent = one + other
        records = record(tmp_path, sent)
        for position in (0, 1, 3, 4, 7):  # the frames between have no label
            label(tmp_path, records[position], STOP)
        export(str(tmp_path), tmp_path / "out")
        with (tmp_path / "out" / TABLE).open() as file:
            rows = {row["request_id"]: row["group"] for row in csv.DictReader(file)}
        assert rows["a0"] == rows["a1"] == rows["a3"] != rows["a4"] == rows["a7"]

    def test_labels_without_a_usable_image_are_counted(self, tmp_path: Path) -> None:
        sent = [Sent(seconds=10 * number, stored=1) for number in range(6)]
        sent[1].stored = None
        records = record(tmp_path, sent)
        label(tmp_path, records[0], STOP)
        label(tmp_path, records[1], STOP)
        label(tmp_path, records[2], None)
        unclear(tmp_path, records[3])
        label(tmp_path, records[4], STOP, "feedback")
        label(tmp_path, records[5], STOP)
        Folder(tmp_path).remove(str(records[5].image))
        done = export(str(tmp_path), tmp_path / "out", only_reviewed=True)
        assert (done.images, sum(done.left_out.values())) == (1, 5)
        assert len(done.left_out) == 5

    def test_an_erased_request_is_gone(self, tmp_path: Path) -> None:
        sent = [Sent(seconds=10 * number, stored=1) for number in range(2)]
        label_first(tmp_path, sent, record(tmp_path, sent), 2)
        assert erase(str(tmp_path), "a0") == (1, 1, 1, 0)
        done = export(str(tmp_path), tmp_path / "out")
        assert (done.images, done.left_out) == (1, {})
        assert len(Folder(tmp_path).names(LABELS)) == 1

    def test_contradictory_labels_of_one_image_are_left_out(self, tmp_path: Path) -> None:
        sent = [Sent(seconds=10 * number, stored=1, image=PNG if number < 2 else b"") for number in range(3)]
        again = [Sent(seconds=10 * number, stored=1, image=PNG + b"2") for number in (5, 6)]
        records = record(tmp_path, sent + again)
        for one, truth in zip(records, (STOP, YIELD, STOP, YIELD, YIELD), strict=True):
            label(tmp_path, one, truth)
        done = export(str(tmp_path), tmp_path / "out")
        assert (done.images, done.left_out) == (3, {"contradict the label of an identical image": 2})
        with (tmp_path / "out" / TABLE).open() as file:
            listed = {row["path"] for row in csv.DictReader(file)}
        assert listed == {f"images/{path.name}" for path in (tmp_path / "out" / "images").iterdir()}
        label(tmp_path, records[1], STOP)  # a reviewer corrects the label
        assert export(str(tmp_path), tmp_path / "again").images == 5

    def test_nothing_to_export(self, tmp_path: Path) -> None:
        for _ in range(2):  # without a log, and without labels
            with pytest.raises(DataError, match="no labelled images to export"):
                export(str(tmp_path / "log"), tmp_path / "out")
            record(tmp_path / "log", [Sent(stored=1)])
        assert not (tmp_path / "out").exists()

    def test_labels_of_records_that_are_still_being_written(self, tmp_path: Path) -> None:
        label(tmp_path, record(tmp_path, [Sent(stored=1)])[0], STOP)
        [segment] = (tmp_path / "records").rglob("*.jsonl.gz")
        segment.rename(f"{segment}.part")
        with pytest.raises(DataError, match="1 are outside the window, or so new that the service is still writing"):
            export(str(tmp_path), tmp_path / "out")

    def test_an_existing_folder_is_not_overwritten(self, tmp_path: Path) -> None:
        sent = [Sent(stored=1)]
        label_first(tmp_path / "log", sent, record(tmp_path / "log", sent), 1)
        (tmp_path / "out").mkdir()
        assert export(str(tmp_path / "log"), tmp_path / "out").images == 1  # an empty one is used
        with pytest.raises(DataError, match="exists already"):
            export(str(tmp_path / "log"), tmp_path / "out")

    def test_a_full_disk_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sent = [Sent(stored=1)]
        label_first(tmp_path / "log", sent, record(tmp_path / "log", sent), 1)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StorageError, match="No space left"):
                export(str(tmp_path / "log"), tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["log"]

    def test_a_record_that_names_another_file(self, tmp_path: Path) -> None:
        (tmp_path / "secret.png").write_bytes(b"secret")
        [line] = json_lines([batch("a")], iter(["r"]), ["images/../secret.png"]).splitlines()
        store_segment(str(tmp_path), "a", [line])
        [row] = read_records(str(tmp_path))
        label(tmp_path, Recent.of(row), STOP)
        with pytest.raises(DataError, match="1 have no stored image"):
            export(str(tmp_path), tmp_path / "out")


def test_commands(tmp_path: Path) -> None:
    sent = traffic(40, stored=1)
    records = record(tmp_path, sent)
    unclear(tmp_path, records[0])
    label_first(tmp_path, sent[1:], records[1:], 39)
    options = ["--log", str(tmp_path)]
    accuracy = CliRunner().invoke(app, ["accuracy", *options])
    assert accuracy.exit_code == 0
    assert "Accuracy 100.0%, 95 % interval" in accuracy.output
    assert "1 images could not be judged" in accuracy.output
    exported = CliRunner().invoke(app, ["export", str(tmp_path / "out"), *options])
    assert exported.exit_code == 0, exported.output
    assert "39  Stop" in exported.output
    assert "Wrote 39 images of 39 physical signs" in exported.output
