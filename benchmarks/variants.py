"""Accuracy, size, memory and speed of every form of a model; `inv benchmark`.

    uv run python -m benchmarks.variants data.raw_dir=../shared/gtsrb
    uv run python -m benchmarks.variants data.raw_dir=../shared/gtsrb ckpt_path=models/runs/…/best_model.pth

Takes the checkpoint at `ckpt_path` and what `inv export` left beside it (`.onnx`, `.int8.onnx`, `.pruned.onnx`); forms
that are absent are left out. Each runs in a process of its own, which imports torch only where the form needs it, once
with one thread and once with two. `start_seconds` is from the start of that process to the first answer, `resident_mb`
its memory while answering, without the test images. All classify the test images at hand; times are of 400 real ones,
as arrays (`p50_ms` to `p99_ms` one by one, `images_per_second` in batches of 32). Reading and scaling a picture is the
same for all and stands apart in `preprocess_ms`. Writes benchmarks/results/variants.csv and
reports/figures/variants.png.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.accuracy import count_macs
from benchmarks.environment import RESULTS, Row, command_line, parse, read_results, write_results
from benchmarks.one_variant import FORMS, IMAGES
from src.mlops import ROOT
from src.mlops.checkpoint import load_checkpoint
from src.mlops.config import load_config
from src.mlops.data.prepare import prepare
from src.mlops.data.sources import locate_raw
from src.mlops.evaluate import require_same_size
from src.mlops.metrics import classification_metrics
from src.mlops.model import count_parameters

THREADS = (1, 2)


def main(words: list[str]) -> None:
    """Measures each form with each number of threads, and draws them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variants")
    _, overrides = parse(parser, words)
    config = load_config(overrides)
    pack = prepare(config.data)
    arrays = pack.load(config.evaluation.split)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/images.npy", arrays.images[arrays.rows])
        if raw_dir := locate_raw(config.data):
            Path(folder, "files.json").write_text(json.dumps([str(raw_dir / path) for path in arrays.paths[:IMAGES]]))
        for form, suffix in FORMS.items():
            path = config.ckpt_path.with_suffix(suffix)
            checkpoint_path = path.with_suffix(".pth") if "pruned" in suffix else config.ckpt_path
            if not path.is_file():
                sys.stderr.write(f"{form}: left out, there is no {path}\n")
                continue
            checkpoint = load_checkpoint(checkpoint_path)
            require_same_size(pack, checkpoint.image_size)
            if not rows:
                (RESULTS / "variants.csv").unlink(missing_ok=True)  # of another model
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
    draw(read_results("variants"), ROOT / "reports" / "figures" / "variants.png")


def _measure(form: str, path: Path, threads: int, folder: Path) -> Row | None:
    command = [sys.executable, "-m", "benchmarks.one_variant", form, str(path), str(threads), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)  # noqa: S603 - our own module
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        sys.stderr.write(f"{form}: left out, it does not run here: {reason}\n")
        return None
    row: Row = json.loads(done.stdout)
    return row


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Draws accuracy against the time for one image with one thread."""
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
        title="Accuracy and time of one image, one thread; the area tells the file's size",
        xlabel="ms for one image, median",
        ylabel="accuracy on the test images, %",
        xscale="log",
    )
    axes.margins(x=0.15, y=0.45)  # room for the labels, which run down to the right
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3, which="both")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    command_line(main)
