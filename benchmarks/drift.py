r"""Measures drift detection: false alarms, images until a shift is found, and the estimated accuracy.

    uv run python -m benchmarks.drift data.raw_dir=../shared/gtsrb evaluation.split=val
    uv run python -m src.mlops.train data.raw_dir=../shared/gtsrb training.leave_out=[4,17,25] \
        ckpt_path=models/benchmarks/without-4-17-25/best_model.pth
    uv run python -m benchmarks.drift data.raw_dir=../shared/gtsrb \
        --left-out-model models/benchmarks/without-4-17-25/best_model.onnx

Everything was chosen on validation images; the test images are the default of `evaluation.split` and are used once.
What the model's reference knows, such as the fit of the estimated accuracy, comes from the reference split.

Half of the images of the split, chosen at random, is the baseline, and streams are drawn from the other half, image by
image, with replacement. Clean traffic is watched by image, where baseline and stream are random images of the same
pool. Validation images are also watched by track: random halves of the tracks are the baseline and the stream, in which
each track occurs once; the tracks of test images are not known. `--clean-only` measures nothing else.

Writes to benchmarks/results: `drift.csv` (probability that a shift is found within n images, and by which finding),
`drift_false_alarms.csv` (single looks and runs of looks at clean images with an alarm; each run has its own halves),
`drift_accuracy.csv`, and reports/latest/figures/drift.png. With `--streams FOLDER`, also the input of
`benchmarks.contenders.drift_detectors`.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.environment import Row, read_results, write_results
from benchmarks.shifts import DISTANCES, MIXES, SHARES, all_shifts, shifted
from benchmarks.streams import (
    ALARMS,
    ByImage,
    ByTrack,
    Contaminated,
    OtherMix,
    Resampled,
    Source,
    accept,
    in_order,
    in_processes,
    watch_clean,
    watch_shifted,
)
from src.mlops import ROOT
from src.mlops.cli import Overrides, new_app, typer_main
from src.mlops.config import Config, load_config
from src.mlops.data.prepare import prepare
from src.mlops.data.splits import REFERENCE
from src.mlops.data.synthetic.out_of_distribution import draw_unknowns
from src.mlops.errors import DataError
from src.mlops.inference.classifier import Classifier
from src.mlops.io.figures import save_figure
from src.mlops.modelfile.locate import locate_model
from src.mlops.monitoring.baseline import Baseline
from src.mlops.monitoring.detector import EVERY
from src.mlops.monitoring.observations import Floats, Observations
from src.mlops.monitoring.reference import Pixels, observations_of, run
from src.mlops.preprocessing import preprocess

app = new_app()
CORES = os.cpu_count() or 1
RUNS = 300  # of clean images
WRITTEN_STREAMS, WRITTEN_RUNS = 50, 2  # for other detectors
PER_KIND = 150  # drawn unknown images


@app.command()
def main(
    overrides: Overrides,
    model: Annotated[str, typer.Option(help="Model file.")] = "latest",
    left_out_model: Annotated[Path | None, typer.Option(help="A model that was trained without some classes.")] = None,
    runs: Annotated[int, typer.Option(help="Runs of looks at clean images.", min=1)] = RUNS,
    streams: Annotated[Path | None, typer.Option(help="Folder for the streams, for other detectors.")] = None,
    clean_only: Annotated[bool, typer.Option("--clean-only", help="Only false alarms.")] = False,
    workers: Annotated[int, typer.Option(help="Processes; the results do not depend on it.", min=1)] = CORES,
) -> None:
    """Measures all three."""
    config = load_config(overrides)
    setting = _Setting(config, locate_model(model))
    write_results("drift_false_alarms", _false_alarms(setting, runs, workers), ("split", "traffic", "finding"))
    if clean_only:
        return
    estimates: list[Row] = []
    sources = list(_sources(setting, estimates))
    write_results("drift_accuracy", estimates, ("split", "shift", "strength"))
    if streams:
        _write(streams, setting, sources, runs)
    jobs = [(source, setting.baseline) for _, _, source in sources]
    if left_out_model:
        other = _Setting(config, left_out_model)
        left_out = list(_unknown(other, "left-out classes", other.left_out))
        sources += left_out
        jobs += [(source, other.baseline) for _, _, source in left_out]
    found = in_processes(watch_shifted, jobs, workers, "watching shifted images")
    rows = [
        row
        for (name, strength, _), shares in zip(sources, found, strict=True)
        for row in _found(setting.split, name, strength, shares)
    ]
    write_results("drift", rows, ("split", "shift", "strength", "images"))
    draw(setting.split, ROOT / "reports" / "latest" / "figures" / "drift.png")


class _Setting:
    """A model with its reference, the images of a split, a baseline from one half, and the other half."""

    def __init__(self, config: Config, model: Path) -> None:
        self.split = config.evaluation.split
        self.classifier = Classifier.load(model, threads=CORES)
        self.reference = Baseline.of_model(model)
        pack = prepare(config.data)
        pack.require_fit(self.classifier.image_size, self.classifier.info.classes)
        learnt, used = pack.load(REFERENCE), pack.load(self.split)
        outputs = run(self.classifier, learnt.images[learnt.rows])
        self.atc_threshold = _atc_threshold(outputs.probability, outputs.predicted == learnt.labels)
        tracks = np.unique(pack.index()["track_id"].to_numpy()[used.rows], return_inverse=True)[1]
        known = ~np.isin(used.labels, list(self.classifier.info.config["training"].get("leave_out") or []))
        everything = self.observe(used.images[used.rows], tracks)
        self.left_out, self.everything = everything.take(~known), everything.take(known)
        first, second = np.split(np.random.default_rng(0).permutation(known.sum()), [known.sum() // 2])
        self.baseline = accept(in_order(self.everything, first), self.reference)
        self.clean = self.everything.take(second)
        self.labels = used.labels[known][second]
        self.images = used.images[used.rows[known][second]]

    def observe(self, images: Pixels, tracks: NDArray[np.int64] | None = None) -> Observations:
        """Returns what the log would have about images, uint8 [N, S, S, 3]."""
        return observations_of(run(self.classifier, images), self.reference.knowledge.centres, tracks)


def _sources(setting: _Setting, estimates: list[Row]) -> Iterator[tuple[str, float, Source]]:
    """Returns the name, the strength and the source of the streams of each shift, and appends to `estimates`."""
    estimates.append(_accuracy(setting, "clean", 0, setting.clean))
    for name, strength in all_shifts():
        stream = setting.observe(shifted(setting.images, name, strength), setting.clean.cluster)
        estimates.append(_accuracy(setting, name, strength, stream))
        yield name, strength, Resampled(stream)
    for kind in MIXES:
        for distance in DISTANCES:
            yield f"mix: {kind}", distance, OtherMix(setting.clean, setting.labels, kind, distance)
    kinds = draw_unknowns(PER_KIND, seed=7).values()
    drawn = np.stack([preprocess(image, setting.classifier.image_size) for kind in kinds for image in kind])
    yield from _unknown(setting, "drawn", setting.observe(drawn))


def _unknown(setting: _Setting, kind: str, unknown: Observations) -> Iterator[tuple[str, float, Source]]:
    for share in SHARES:
        yield f"unknown: {kind}", share, Contaminated(setting.clean, unknown, share)


def _false_alarms(setting: _Setting, runs: int, workers: int) -> list[Row]:
    kinds: list[ByImage | ByTrack] = [ByImage(setting.everything, setting.reference)]
    if len(np.unique(setting.everything.cluster)) < len(setting.everything):
        kinds.append(ByTrack(setting.everything, setting.reference))
    jobs = [(traffic, number) for traffic in kinds for number in range(runs)]
    watched = in_processes(watch_clean, jobs, workers, "watching clean images")
    rows: list[Row] = []
    for traffic in dict.fromkeys(name for alarms in watched for name in alarms):
        own = [alarms[traffic] for alarms in watched if traffic in alarms]
        looks = np.concatenate(own)
        rows += [
            {
                "split": setting.split,
                "traffic": traffic,
                "finding": kind,
                "runs": len(own),
                "looks_per_run": round(len(looks) / len(own)),
                "runs_with_alarm": round(float(np.mean([alarms[:, place].any() for alarms in own])), 5),
                "looks": len(looks),
                "looks_with_alarm": round(float(looks[:, place].mean()), 7),
            }
            for place, kind in enumerate(ALARMS)
        ]
    return rows


def _found(split: str, name: str, strength: float, shares: NDArray[np.float64]) -> list[Row]:
    """Returns a row per number of images with the share of streams in which the shift was found by then."""
    return [
        {
            "split": split,
            "shift": name,
            "strength": strength,
            "images": (place + 1) * EVERY,
            "found": round(share[-1], 4),
        }
        | {f"found_{kind}": round(value, 4) for kind, value in zip(ALARMS[:-1], share, strict=False)}
        for place, share in enumerate(shares.tolist())
    ]


def _accuracy(setting: _Setting, name: str, strength: int, stream: Observations) -> Row:
    """Returns the accuracy on labelled images and its estimates without labels."""
    estimated = setting.reference.estimate_accuracy(stream)
    if estimated is None:
        raise DataError("The reference of the model knows nothing about its accuracy. Export the model again.")
    ours, low, high = estimated
    confidence = 1 - np.exp(stream.column("doubt"))
    true = float((stream.predicted == setting.labels).mean())
    estimates = {
        "estimated": ours,
        "atc": float((confidence >= setting.atc_threshold).mean()),
        "mean_confidence": float(confidence.mean()),
    }
    return {
        "split": setting.split,
        "shift": name,
        "strength": strength,
        "images": len(stream),
        "accuracy": round(true, 4),
        **{key: round(value, 4) for key, value in estimates.items()},
        "low": round(low, 4),
        "high": round(high, 4),
        **{f"error_{key}": round(abs(value - true), 4) for key, value in estimates.items()},
    }


def _atc_threshold(probability: Floats, correct: NDArray[np.bool_]) -> float:
    """Returns the confidence above which as many clean images are as are classified correctly (Garg et al., 2022)."""
    return float(np.quantile(probability, 1 - correct.mean()))


def _write(folder: Path, setting: _Setting, sources: list[tuple[str, float, Source]], runs: int) -> None:
    """Writes features for the detectors of other libraries: streams of each shift, and runs of clean images."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "baseline.npy", setting.baseline.values)
    for name, strength, source in [("clean", 0, Resampled(setting.clean)), *sources]:
        drawn = [source.draw(np.random.default_rng([2, number])).values for number in range(WRITTEN_STREAMS)]
        np.save(folder / f"{name.replace(':', '')}@{strength}.npy", np.stack(drawn))
    for number in range(min(runs, WRITTEN_RUNS)):
        run_of_images = ByImage(setting.everything, setting.reference).runs(number)["by image"]
        np.savez(
            folder / f"run-{number}.npz", baseline=run_of_images.baseline.values, stream=run_of_images.stream.values
        )


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
