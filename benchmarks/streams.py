"""Streams of traffic: random images of a pool, with another mix of classes, with unknown things, or track by track.

The sources are plain data, so that a process can send them to another one. Each draws a stream from a generator of
random numbers.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.shifts import other_mix
from src.mlops.io.progress import progress_bar
from src.mlops.monitoring.baseline import Baseline
from src.mlops.monitoring.detector import EVERY, LOOKS, look
from src.mlops.monitoring.observations import Observations

Rows = NDArray[np.int64]
Job = TypeVar("Job")
Result = TypeVar("Result")
LONGEST = 1000  # images of a stream in which a shift must be found
STREAMS = 200  # for each shift
ALARMS = ("camera", "mix", "unknown", "model", "any")  # the kinds of `Looks.alarms`, and any of them


@dataclass(frozen=True)
class Resampled:
    """Random images of a pool, with replacement."""

    pool: Observations

    def draw(self, rng: np.random.Generator) -> Observations:
        """Returns a stream of 1,000 images."""
        return in_order(self.pool, rng.integers(0, len(self.pool), LONGEST))


@dataclass(frozen=True)
class OtherMix:
    """Random images of a pool with another mix of classes at a total variation distance; see `other_mix`."""

    pool: Observations
    labels: NDArray[np.int64]
    kind: str
    distance: float

    def draw(self, rng: np.random.Generator) -> Observations:
        """Returns a stream of 1,000 images."""
        shares = np.bincount(self.labels) / len(self.labels)
        labels = rng.choice(len(shares), LONGEST, p=other_mix(shares, self.kind, self.distance, rng))
        order = np.argsort(self.labels, kind="stable")
        sizes = np.bincount(self.labels)
        place = (rng.random(LONGEST) * sizes[labels]).astype(np.int64)
        return in_order(self.pool, order[np.cumsum(sizes)[labels] - sizes[labels] + place])


@dataclass(frozen=True)
class Contaminated:
    """Random images of a pool, of which a share shows unknown things."""

    pool: Observations
    unknown: Observations
    share: float

    def draw(self, rng: np.random.Generator) -> Observations:
        """Returns a stream of 1,000 images."""
        columns = zip(vars(self.pool).values(), vars(self.unknown).values(), strict=True)
        both = Observations(*(np.concatenate(pair) for pair in columns))
        rows = rng.integers(0, len(self.pool), LONGEST)
        replaced = rng.random(LONGEST) < self.share
        rows[replaced] = len(self.pool) + rng.integers(0, len(self.unknown), replaced.sum())
        return in_order(both, rows)


Source = Resampled | OtherMix | Contaminated


class Run(NamedTuple):
    """A stream of clean traffic, and the baseline that it is compared with."""

    baseline: Baseline
    stream: Observations


@dataclass(frozen=True)
class ByImage:
    """Clean traffic: streams of 1,000 looks, and baselines of half as many images as there are.

    If both are random images of the same pool, with replacement, they are exchangeable, as the tests assume. If they
    are from disjoint halves, they differ a little, for ever: a stream shows the same images again and again.
    """

    images: Observations
    like: Baseline  # whose origin and knowledge the baselines have

    def runs(self, number: int) -> dict[str, Run]:
        """Returns the stream of a run."""
        rng = np.random.default_rng([1, number])
        count, half = len(self.images), len(self.images) // 2
        first, second = np.split(rng.permutation(count), [half])

        def run(accepted: Rows, pool: Rows) -> Run:
            baseline = accept(in_order(self.images, accepted), self.like)
            return Run(baseline, in_order(self.images, rng.choice(pool, LOOKS * EVERY)))

        return {
            "by image": run(rng.integers(0, count, half), np.arange(count)),
            "by image, disjoint halves": run(first, second),
        }


@dataclass(frozen=True)
class ByTrack:
    """Clean traffic: random halves of the tracks are the baseline and a stream of one track after the other."""

    images: Observations  # whose clusters are the tracks
    like: Baseline

    def runs(self, number: int) -> dict[str, Run]:
        """Returns the stream of a run, and what it would be if the frames of a track counted as independent."""
        tracks = np.random.default_rng([3, number]).permutation(np.unique(self.images.cluster))
        first, second = np.split(tracks, [len(tracks) // 2])
        accepted = self.images.take(np.isin(self.images.cluster, first))
        rows = np.concatenate([np.flatnonzero(self.images.cluster == track) for track in second])
        frames = in_order(accepted, np.arange(len(accepted)))
        return {
            "by track": Run(accept(accepted, self.like, number), in_order(self.images, rows, self.images.cluster)),
            "by track, each frame as a sign of its own": Run(accept(frames, self.like), in_order(self.images, rows)),
        }


def accept(images: Observations, like: Baseline, seed: int = 0) -> Baseline:
    """Returns images as a baseline."""
    return Baseline.of(images, like.origin, like.knowledge, seed)


def in_order(pool: Observations, rows: Rows, cluster: NDArray[np.int64] | None = None) -> Observations:
    """Returns rows of a pool in the given order.

    Args:
        pool: Images.
        rows: int64 [N].
        cluster: Cluster of each image of the pool; by default, each image is a cluster of its own.
    """
    chosen = pool.take(rows)
    count = np.arange(len(rows))
    clusters = count if cluster is None else cluster[rows]
    return Observations(count.astype(np.float64), chosen.predicted, chosen.unknown, chosen.values, clusters)


def alarms_of(run: Run) -> NDArray[np.bool_]:
    """Returns for each look whether each of `ALARMS` is raised, bool [L, 5]."""
    alarms = look(run.stream, run.baseline).alarms()
    single = np.stack([alarms[kind] for kind in ALARMS[:-1]], axis=1)
    return np.column_stack([single, single.any(axis=1)])


def watch_clean(job: tuple[ByImage | ByTrack, int]) -> dict[str, NDArray[np.bool_]]:
    """Returns the alarms of a run of clean traffic, bool [L, 5] for each of its streams."""
    traffic, number = job
    return {name: alarms_of(run) for name, run in traffic.runs(number).items()}


def watch_shifted(job: tuple[Source, Baseline]) -> NDArray[np.float64]:
    """Returns the share of streams in which each of `ALARMS` was raised by each look, float64 [10, 5]."""
    source, baseline = job
    runs = (Run(baseline, source.draw(np.random.default_rng([2, number]))) for number in range(STREAMS))
    return np.asarray(np.mean([np.logical_or.accumulate(alarms_of(run)) for run in runs], axis=0))


def in_processes(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int, title: str) -> list[Result]:
    """Returns the result of each job, in their order."""
    results = []
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool, progress_bar(title, len(jobs)) as bar:
        for result in pool.map(work, jobs):
            results.append(result)
            bar.update()
    return results
