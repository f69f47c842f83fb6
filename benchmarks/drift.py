r"""Measures drift detection: false alarms, images until a shift is found, and the estimated accuracy.

    uv run python -m benchmarks.drift data.raw_dir=../shared/gtsrb evaluation.split=val
    uv run python -m benchmarks.drift data.raw_dir=../shared/gtsrb \
        --left-out-model models/benchmarks/without-4-17-25/best_model.onnx

Everything was chosen on validation images; the test images are the default of `evaluation.split` and are used once.
Half of the images of the split, chosen at random, is the baseline, and streams are drawn from the other half, image by
image, with replacement. The estimate of the accuracy is fitted on 2,000 validation images, clean and with all
corruptions at all five severities, and tested on the images of the streams.

Writes to benchmarks/results: `drift.csv` (probability that a shift is found within n images, and by which finding),
`drift_false_alarms.csv` (windows and runs of 1,000 windows of clean images with an alarm; each run has its own random
halves), `drift_accuracy.csv`, and reports/figures/drift.png.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.environment import Overrides, Row, read_results, write_results
from benchmarks.shifts import DISTANCES, MIXES, SHARES, all_shifts, other_mix, shifted
from src.mlops import ROOT
from src.mlops.cli import new_app, typer_main
from src.mlops.config import Config, load_config
from src.mlops.data.packing import SplitArrays
from src.mlops.data.prepare import prepare
from src.mlops.data.synthetic.out_of_distribution import draw_unknowns
from src.mlops.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from src.mlops.inference.classifier import Classifier
from src.mlops.io.figures import save_figure
from src.mlops.io.progress import progress_bar
from src.mlops.modelfile.locate import locate_model
from src.mlops.monitoring import accuracy
from src.mlops.monitoring.baseline import Baseline
from src.mlops.monitoring.detector import EVERY, LOOKS, look
from src.mlops.monitoring.findings import TITLES
from src.mlops.monitoring.observations import Observations
from src.mlops.monitoring.reference import build_reference, observations_of, run
from src.mlops.preprocessing import preprocess

app = new_app()
LONGEST = 1000  # images of a stream in which a shift must be found
STREAMS = 200  # for each shift
WRITTEN = 50  # streams for other detectors
RUNS = 300  # of 1,000 windows of clean images
FITTED = 2000  # validation images for the estimate of the accuracy
PER_KIND = 150  # drawn unknown images
Rows = NDArray[np.int64]
Make = Callable[[np.random.Generator], Observations]


@app.command()
def main(
    overrides: Overrides,
    model: Annotated[str, typer.Option(help="Model file.")] = "latest",
    left_out_model: Annotated[Path | None, typer.Option(help="A model that was trained without some classes.")] = None,
    runs: Annotated[int, typer.Option(help="Runs of 1,000 windows of clean images.")] = RUNS,
    streams: Annotated[Path | None, typer.Option(help="Folder for the streams, for other detectors.")] = None,
) -> None:
    """Measures all three."""
    config = load_config(overrides)
    bench = _Bench(config, locate_model(model), streams)
    bench.write("clean", 0, bench.resampled(bench.clean))
    _false_alarms(bench, runs)
    with progress_bar("measuring shifts", len(all_shifts()) + len(MIXES) * len(DISTANCES) + 2 * len(SHARES)) as bar:
        rows: list[Row] = []
        estimates: list[Row] = []
        for name, strength in all_shifts():
            outputs = run(bench.classifier, shifted(bench.images, name, strength))
            stream = observations_of(outputs, bench.centres, bench.threshold)
            rows += _found(bench, name, strength, bench.resampled(stream))
            estimates.append(_accuracy(bench, name, strength, stream, outputs.predicted == bench.labels))
            bar.update()
        clean = run(bench.classifier, bench.images)
        estimates.append(_accuracy(bench, "clean", 0, bench.clean, clean.predicted == bench.labels))
        for kind in MIXES:
            for distance in DISTANCES:
                rows += _found(bench, f"mix: {kind}", distance, bench.other_mixes(kind, distance))
                bar.update()
        for share in SHARES:
            rows += _found(bench, "unknown: drawn", share, bench.contaminated(bench.drawn(), share))
            bar.update()
        if left_out_model:
            other = _Bench(config, left_out_model, None)
            for share in SHARES:
                rows += _found(other, "unknown: left-out classes", share, other.contaminated(other.left_out, share))
                bar.update()
    write_results("drift", rows, ("split", "shift", "strength", "images"))
    write_results("drift_accuracy", estimates, ("split", "shift", "strength"))
    draw(bench.split, ROOT / "reports" / "figures" / "drift.png")


class _Bench:
    """The images, the model and the baseline of one measurement."""

    def __init__(self, config: Config, model: Path, streams: Path | None) -> None:
        self._streams = streams
        self.split = config.evaluation.split
        self.classifier = Classifier.load(model)
        self.threshold = self.classifier.info.calibration.energy_threshold
        pack = prepare(config.data)
        pack.require_fit(self.classifier.image_size, self.classifier.info.classes)
        validation, used = pack.load("val"), pack.load(self.split)
        unseen = list(self.classifier.info.config["training"].get("leave_out") or [])
        reference = _sample(validation, FITTED, unseen)
        self.reference = build_reference(
            self.classifier,
            validation.images[validation.rows[reference]],
            validation.labels[reference],
            np.arange(len(reference)),
            "benchmark",
            [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES],
            corrupt,
        )
        self.centres = self.reference.knowledge.centres
        outputs = run(self.classifier, used.images[used.rows])
        everything = observations_of(outputs, self.centres, self.threshold)
        known = ~np.isin(used.labels, unseen)
        self.left_out = everything.take(~known)
        self.everything = everything.take(known)
        self.all_labels = used.labels[known]
        first, second = self.halves(np.random.default_rng(0))
        self.baseline = self.accept(first)
        self.clean = self.everything.take(second)
        self.labels = self.all_labels[second]
        self.images = used.images[used.rows[np.flatnonzero(known)[second]]]

    def write(self, name: str, strength: float, make: Make) -> None:
        """Writes the features of some streams for the detectors of other libraries, float32 [50, 1000, F]."""
        if self._streams:
            self._streams.mkdir(parents=True, exist_ok=True)
            np.save(self._streams / "baseline.npy", self.baseline.values)
            streams = np.stack([make(np.random.default_rng([2, number])).values for number in range(WRITTEN)])
            np.save(self._streams / f"{name.replace(':', '')}@{strength}.npy", streams)

    def halves(self, rng: np.random.Generator) -> tuple[Rows, Rows]:
        """Returns the rows of two random halves of all images."""
        order = rng.permutation(len(self.everything))
        return order[: len(order) // 2], order[len(order) // 2 :]

    def accept(self, rows: Rows) -> Baseline:
        """Returns some images as a baseline."""
        return Baseline.of(self.everything.take(rows), self.reference.origin, self.reference.knowledge)

    def resampled(self, pool: Observations) -> Make:
        """Returns a source of streams of random images."""
        return lambda rng: _as_stream(pool, rng.integers(0, len(pool), LONGEST))

    def other_mixes(self, kind: str, distance: float) -> Make:
        """Returns a source of streams with another mix of classes."""
        shares = np.bincount(self.labels, minlength=len(self.centres)) / len(self.labels)
        of_class = [np.flatnonzero(self.labels == label) for label in range(len(shares))]

        def make(rng: np.random.Generator) -> Observations:
            labels = rng.choice(len(shares), LONGEST, p=other_mix(shares, kind, distance, rng))
            return _as_stream(self.clean, np.array([rng.choice(of_class[label]) for label in labels]))

        return make

    def contaminated(self, unknown: Observations, share: float) -> Make:
        """Returns a source of streams in which a share of the images shows something else."""
        both = Observations(
            *(np.concatenate(pair) for pair in zip(vars(self.clean).values(), vars(unknown).values(), strict=True))
        )

        def make(rng: np.random.Generator) -> Observations:
            rows = rng.integers(0, len(self.clean), LONGEST)
            replaced = rng.random(LONGEST) < share
            rows[replaced] = len(self.clean) + rng.integers(0, len(unknown), replaced.sum())
            return _as_stream(both, rows)

        return make

    def drawn(self) -> Observations:
        """Returns rendered images of all kinds that show none of the signs."""
        kinds = draw_unknowns(PER_KIND, seed=7).values()
        images = np.stack([preprocess(image, self.classifier.image_size) for kind in kinds for image in kind])
        return observations_of(run(self.classifier, images), self.centres, self.threshold)


def _sample(arrays: SplitArrays, count: int, unseen: list[int]) -> Rows:
    known = np.flatnonzero(~np.isin(arrays.labels, unseen))
    return np.sort(np.random.default_rng(0).permutation(known)[:count])


def _as_stream(pool: Observations, rows: Rows) -> Observations:
    """Returns rows in the given order, each a cluster of its own."""
    chosen = pool.take(rows)
    count = np.arange(len(rows))
    return Observations(count.astype(np.float64), chosen.predicted, chosen.unknown, chosen.values, count)


def _false_alarms(bench: _Bench, runs: int) -> None:
    windows = dict.fromkeys([*TITLES, "any"], 0)
    alarm_runs = dict.fromkeys(windows, 0)
    with progress_bar("watching clean images", runs) as bar:
        for run_number in range(runs):
            rng = np.random.default_rng([1, run_number])
            first, second = bench.halves(rng)
            stream = _as_stream(bench.everything, rng.choice(second, LOOKS * EVERY))
            for kind, raised in _alarms(stream, bench.accept(first)):
                windows[kind] += int(raised.sum())
                alarm_runs[kind] += int(raised.any())
            bar.update()
    rows: list[Row] = [
        {
            "split": bench.split,
            "finding": kind,
            "runs": runs,
            "runs_with_alarm": alarm_runs[kind] / max(runs, 1),
            "windows": runs * LOOKS,
            "windows_with_alarm": windows[kind] / max(runs * LOOKS, 1),
        }
        for kind in windows
    ]
    if runs:
        write_results("drift_false_alarms", rows, ("split", "finding"))


def _found(bench: _Bench, name: str, strength: float, make: Make) -> list[Row]:
    """Returns a row per number of images with the share of streams in which the shift was found by then."""
    bench.write(name, strength, make)
    found = {kind: np.zeros(LONGEST // EVERY) for kind in [*TITLES, "any"]}
    for number in range(STREAMS):
        for kind, raised in _alarms(make(np.random.default_rng([2, number])), bench.baseline):
            found[kind] += np.logical_or.accumulate(raised) / STREAMS
    return [
        {
            "split": bench.split,
            "shift": name,
            "strength": strength,
            "images": (place + 1) * EVERY,
            "found": round(float(found["any"][place]), 4),
            **{f"found_{kind}": round(float(found[kind][place]), 4) for kind in TITLES},
        }
        for place in range(LONGEST // EVERY)
    ]


def _alarms(stream: Observations, baseline: Baseline) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    alarms = look(stream, baseline).alarms()
    yield from alarms.items()
    yield "any", np.any(list(alarms.values()), axis=0)


def _accuracy(bench: _Bench, name: str, strength: int, stream: Observations, correct: NDArray[np.bool_]) -> Row:
    knowledge = bench.reference.knowledge
    error = float(knowledge.accuracy_error)
    fitted = accuracy.Fitted(knowledge.coefficients, knowledge.known)
    estimated, low, high = accuracy.estimate(fitted, stream.values, stream.cluster, error)
    true = float(correct.mean())
    return {
        "split": bench.split,
        "shift": name,
        "strength": strength,
        "accuracy": round(true, 4),
        "estimated": round(estimated, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "mean_confidence": round(1 - float(np.exp(stream.column("doubt")).mean()), 4),
        "error": round(abs(estimated - true), 4),
    }


def draw(split: str, path: Path) -> None:
    """Draws the probability of detection against the number of images, one panel per shift."""
    rows = [row for row in read_results("drift") if row["split"] == split]
    shifts = list(dict.fromkeys(row["shift"] for row in rows))
    columns = 5
    lines = -(-len(shifts) // columns)
    figure = Figure(figsize=(2.4 * columns, 1.9 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, shift in zip(panels, shifts, strict=False):
        own = [row for row in rows if row["shift"] == shift]
        for strength in dict.fromkeys(row["strength"] for row in own):
            points = [(int(row["images"]), float(row["found"])) for row in own if row["strength"] == strength]
            axes.plot(*zip(*points, strict=True), ".-", label=strength)
        axes.set_title(shift, fontsize="small")
        axes.set(xscale="log", ylim=(-0.03, 1.03))
        axes.set_xticks([100, 300, 1000], ["100", "300", "1000"])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize="x-small")
    for axes in panels[len(shifts) :]:
        axes.set_axis_off()
    figure.supxlabel("images since the shift")
    figure.supylabel("probability that it was found")
    save_figure(figure, path)


if __name__ == "__main__":
    typer_main(app)
