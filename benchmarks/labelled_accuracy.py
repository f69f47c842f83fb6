"""Measures how often the interval of `inv labels.accuracy` contains the true accuracy.

    OMP_NUM_THREADS=1 uv run python -m benchmarks.labelled_accuracy

In each trial, traffic with a known accuracy is drawn and written as a prediction log, and the first images of the
review queue are labelled with the truth. Most of these are uncertain. Answers are right with their own probability.
Next to the interval of `inv labels.accuracy`, Wilson's interval for the share of right answers among the same labels is
computed, which ignores how they were chosen. Both have a level of 95 %.

Writes benchmarks/results/labelled_accuracy.csv.
"""

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, NamedTuple

import numpy as np
import typer
from scipy.stats import binomtest

from benchmarks.environment import Row, write_results
from src.mlops.cli import new_app, typer_main
from src.mlops.data.gtsrb import SIGNS
from src.mlops.inference.classifier import Prediction
from src.mlops.io.storage import open_storage
from src.mlops.monitoring.labelled_accuracy import labelled_accuracy
from src.mlops.monitoring.labels import Decision, Labels
from src.mlops.monitoring.read import read_records
from src.mlops.monitoring.recent import Recent
from src.mlops.monitoring.record import Batch, Origin, json_lines
from src.mlops.monitoring.review_order import next_round, reviewable
from src.mlops.monitoring.segments import CLOSED, RECORDS, pack_lines

app = new_app()
COUNTS = (100, 200)  # labels
START = datetime(2026, 11, 1, tzinfo=UTC)
SECONDS = 10  # between two signs
EMBEDDING = 8  # numbers
SIDE = 24  # px


class Traffic(NamedTuple):
    """A distribution of images.

    Attributes:
        name: Name in the results.
        uncertain: Share of uncertain images.
        certain_beta: First parameter of the beta distribution of the probabilities of certain images; the second is 1.
        uncertain_beta: The same for uncertain images; the second is 2.
        stored: Probability that a certain image is stored; uncertain ones are always stored.
        frames: Images of each physical sign, which are right or wrong together.
        signs: Number of physical signs.
    """

    name: str
    uncertain: float
    certain_beta: float
    uncertain_beta: float
    stored: float
    frames: int
    signs: int

    @property
    def accuracy(self) -> float:
        """Returns the expected share of right answers."""
        certain, uncertain = (
            self.certain_beta / (self.certain_beta + 1),
            self.uncertain_beta / (self.uncertain_beta + 2),
        )
        return (1 - self.uncertain) * certain + self.uncertain * uncertain


KINDS = (
    Traffic("all images stored", 0.15, 60, 5, 1.0, 1, 1500),
    Traffic("20 % of certain images stored", 0.15, 60, 5, 0.2, 1, 1500),
    Traffic("accurate model", 0.03, 400, 8, 1.0, 1, 1500),
    Traffic("5 frames of each sign", 0.15, 60, 5, 1.0, 5, 300),
)


class Trial(NamedTuple):
    """Low end, estimate and high end, with weights and without them."""

    weighted: tuple[float, float, float]
    naive: tuple[float, float, float]


@app.command()
def main(trials: Annotated[int, typer.Option(help="Number of trials of each kind of traffic.", min=1)] = 200) -> None:
    """Measures both intervals for each kind of traffic."""
    for traffic in KINDS:
        found = [_trial(traffic, seed) for seed in range(trials)]
        rows = [
            {
                "traffic": traffic.name,
                "labels": count,
                "images": traffic.signs * traffic.frames,
                "trials": trials,
                "true_accuracy": round(traffic.accuracy, 4),
                **_summary("weighted", [one[number].weighted for one in found], traffic.accuracy),
                **_summary("naive", [one[number].naive for one in found], traffic.accuracy),
            }
            for number, count in enumerate(COUNTS)
        ]
        write_results("labelled_accuracy", rows, ("traffic", "labels"))


def _summary(name: str, intervals: list[tuple[float, float, float]], truth: float) -> Row:
    low, estimate, high = np.array(intervals).T
    return {
        f"{name}_covered": round(float(((low <= truth) & (truth <= high)).mean()), 4),
        f"{name}_estimate": round(float(estimate.mean()), 4),
        f"{name}_width": round(float((high - low).mean()), 4),
    }


def _trial(traffic: Traffic, seed: int) -> list[Trial]:
    """Returns one result for each number of labels."""
    with tempfile.TemporaryDirectory() as log:
        truths = _write_log(log, traffic, np.random.default_rng(seed))
        records = [Recent.of(record) for record in read_records(log)]
        labels = Labels(open_storage(log))
        waiting = {record.record_id: record for record in reviewable(records)}
        queue = chain.from_iterable(iter(lambda: next_round(list(waiting.values())), []))
        found: list[Trial] = []
        right: list[bool] = []
        for record in queue:
            truth = truths[record.record_id]
            labels.add(record.subject, Decision("class", truth, SIGNS[truth].name, "review"))
            right.append(truth == record.predicted_class)
            del waiting[record.record_id]
            if len(right) in COUNTS:
                weighted, naive = labelled_accuracy(log), binomtest(sum(right), len(right))
                low, high = naive.proportion_ci(method="wilson")
                found.append(
                    Trial((weighted.low, weighted.accuracy, weighted.high), (low, sum(right) / len(right), high))
                )
            if len(found) == len(COUNTS):
                return found
    raise ValueError(f"The traffic {traffic.name} has too few images that can be labelled")


def _write_log(log: str, traffic: Traffic, rng: np.random.Generator) -> dict[str, int]:
    """Writes the records of one trial. Returns the true class of each record by its ID."""
    truths: dict[str, int] = {}
    # A new prefix for each trial: the order of the queue depends on the IDs.
    ids = [f"{rng.integers(2**63):x}-{number}" for number in range(traffic.signs * traffic.frames)]
    batches, images = [], []
    for number, (batch, truth) in enumerate(_signs(traffic, rng)):
        own = ids[number * traffic.frames : (number + 1) * traffic.frames]
        truths |= dict.fromkeys(own, truth)
        for one, origin in zip(own, batch.origins, strict=True):
            images.append(f"images/{one}.png" if rng.random() < (origin.image_probability or 0) else None)
        batches.append(batch)
    name = f"{RECORDS}/date={START:%Y-%m-%d}/{START:%Y%m%dT%H%M%S.%fZ}-abcdef-000000{CLOSED}"
    lines = json_lines(batches, iter(ids), images).splitlines()
    open_storage(log).write(name, pack_lines(lines))
    return truths


def _signs(traffic: Traffic, rng: np.random.Generator) -> Iterator[tuple[Batch, int]]:
    """Yields the frames of one sign after the other, and its true class."""
    frames = traffic.frames
    arrays = rng.integers(40, 216, (frames, SIDE, SIDE, 3), np.uint8)
    for number in range(traffic.signs):
        label, other = rng.choice(len(SIGNS), 2, replace=False)
        is_uncertain = rng.random() < traffic.uncertain
        chance = rng.beta(traffic.uncertain_beta, 2) if is_uncertain else rng.beta(traffic.certain_beta, 1)
        kept = [int(label), int(other)] if is_uncertain else [int(label)]
        answer = Prediction(int(label), SIGNS[label].name, None, float(chance), [], kept, False, "0" * 12)
        stored = 1.0 if is_uncertain else traffic.stored
        direction = rng.normal(0, 1, EMBEDDING)
        batch = Batch(
            time=START.timestamp() + SECONDS * number,
            answered=1.0,
            classes=SIGNS,
            arrays=arrays,
            embedding=(direction + rng.normal(0, 0.01, (frames, EMBEDDING))).astype(np.float32),
            energy=np.full(frames, -10, np.float32),
            predictions=[answer] * frames,
            origins=[
                Origin(f"request-{number}-{frame}", 0.99, 48, 48, 90, None, image_probability=stored)
                for frame in range(frames)
            ],
        )
        yield batch, int(label if rng.random() < chance else other)


if __name__ == "__main__":
    typer_main(app)
