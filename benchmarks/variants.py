"""Measures accuracy, size, memory and speed of every variant of a model; `inv model.benchmark`.

    uv run python -m benchmarks.variants data.raw_dir=../shared/gtsrb
    uv run python -m benchmarks.variants data.raw_dir=../shared/gtsrb ckpt_path=models/runs/…/best_model.pth

Uses the checkpoint at `ckpt_path` and the files next to it that `inv model.export` wrote (`.onnx`, `.fp16.onnx`,
`.int8.onnx`, `.pruned.onnx`). Skips variants whose file is missing. Each variant runs with one and with two threads,
each time in a new process that imports torch only if the variant needs it. `start_seconds` is the time from the start
of this process to the first prediction. `resident_mb` is its RSS without the test images. The accuracy is measured on
all test images, the time on 400 of them as arrays (`p50_ms` to `p99_ms`: single images, `images_per_second`: batches of
32). `preprocess_ms` is the time for decoding and resizing an image, which is the same for all variants. Writes
benchmarks/results/variants.csv and reports/latest/figures/variants.png.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.accuracy import count_macs
from benchmarks.environment import RESULTS, Row, read_results, write_results
from benchmarks.one_variant import FORMS, IMAGES
from src.mlops import ROOT
from src.mlops.cli import Overrides, new_app, typer_main
from src.mlops.config import load_config
from src.mlops.data.prepare import prepare
from src.mlops.data.sources import locate_raw
from src.mlops.io.files import to_json
from src.mlops.model import count_parameters
from src.mlops.modelfile.checkpoint import load_checkpoint
from src.mlops.training.metrics import classification_metrics

app = new_app()

THREADS = (1, 2)


@app.command()
def main(overrides: Overrides) -> None:
    """Measures each variant with each number of threads, and draws a diagram."""
    config = load_config(overrides)
    pack = prepare(config.data)
    arrays = pack.load(config.evaluation.split)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/images.npy", arrays.images[arrays.rows])
        if raw_dir := locate_raw(config.data):
            Path(folder, "files.json").write_text(to_json([str(raw_dir / path) for path in arrays.paths[:IMAGES]]))
        for form, suffix in FORMS.items():
            path = config.ckpt_path.with_suffix(suffix)
            checkpoint_path = path.with_suffix(".pth") if "pruned" in suffix else config.ckpt_path
            if not path.is_file():
                sys.stderr.write(f"Skipped {form}: {path} does not exist. Run `inv model.export`.\n")
                continue
            checkpoint = load_checkpoint(checkpoint_path)
            pack.require_fit(checkpoint.image_size, checkpoint.classes)
            if not rows:
                (RESULTS / "variants.csv").unlink(missing_ok=True)  # may be results of another model
            for threads in THREADS:
                found = _measure(form, path, threads, Path(folder))
                if found is None:
                    break
                predicted = np.load(f"{folder}/predicted.npy")
                metrics = classification_metrics(arrays.labels, predicted)
                row = {
                    "form": form,
                    "threads_used": threads,
                    "accuracy": round(metrics["Accuracy"], 5),
                    "f1": round(metrics["F1"], 4),
                    "images": len(arrays.labels),
                    "megabytes": round(path.stat().st_size / 1e6, 3),
                    "parameters": count_parameters(checkpoint.model),
                    "mmac": round(count_macs(checkpoint) / 1e6, 1),
                    **found,
                }
                rows.append(row)
                write_results("variants", [row], ("form", "threads_used"))
    draw(read_results("variants"), ROOT / "reports" / "latest" / "figures" / "variants.png")


def _measure(form: str, path: Path, threads: int, folder: Path) -> Row | None:
    command = [sys.executable, "-m", "benchmarks.one_variant", form, str(path), str(threads), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)  # noqa: S603 - our own module
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        sys.stderr.write(f"Skipped {form}: it failed on this machine: {reason}\n")
        return None
    row: Row = json.loads(done.stdout)
    return row


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Draws the accuracy over the time for one image with one thread.

    Args:
        rows: The rows of `variants.csv`.
        path: The file to write.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        if row["threads_used"] == "1":
            place = (float(row["p50_ms"]), 100 * float(row["accuracy"]))
            axes.scatter(*place, s=40 + 60 * float(row["megabytes"]), alpha=0.7)
            axes.annotate(
                row["form"], place, xytext=(4, -6), textcoords="offset points", rotation=-40, va="top", fontsize=8
            )
    axes.set(
        title="Accuracy and time per image with one thread; larger circles are larger files",
        xlabel="median ms per image",
        ylabel="accuracy on the test images, %",
        xscale="log",
    )
    axes.margins(x=0.15, y=0.45)  # space for the rotated labels
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3, which="both")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    typer_main(app)
