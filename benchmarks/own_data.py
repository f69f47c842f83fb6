"""Measures the default settings on images that are no German traffic signs.

    uv run python -m benchmarks.own_data                          # digits and shapes, which need no download
    uv run python -m benchmarks.own_data path/to/images           # any layout of docs/reference/data.md
    uv run python -m benchmarks.own_data digits --seed 1 training.class_weights=balanced

`digits` are the 1,797 handwritten digits of scikit-learn as class folders. `shapes` are 3,600 drawn images of 120
classes: one of six shapes in one of five colours with one of four digits, at a random pose in front of a random
background. Without overrides, only the folders of the run differ from the default settings.

Each trial splits the images with its own seed, trains, and evaluates the model on the test images, which are a fifth
of all images unless the data has a test split. `train_seconds` is the wall-clock time of the complete training command:
start, preparation, training, calibration and export. The alternative is scikit-learn's SVC with its default settings on
the same prepared pixels; it learns from the training and validation images of the same split. It is left out above
10,000 images, because its time grows with their square. Writes benchmarks/results/own_data.csv.
"""

import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from benchmarks.environment import Row, in_new_process, write_results
from benchmarks.shapes import COLOURS, DIGITS, SHAPES, draw_shape
from src.mlops import ROOT
from src.mlops.cli import new_app, typer_main
from src.mlops.config import load_config
from src.mlops.data.packing import Pack
from src.mlops.data.prepare import prepare
from src.mlops.errors import ConfigError
from src.mlops.evaluation.evaluate import evaluate

app = new_app()

SHAPES_PER_CLASS = 30
MAX_FOR_SVC = 10_000  # training images


def write_digits(folder: Path) -> None:
    """Writes scikit-learn's handwritten digits, 8 x 8 px, as class folders."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"digit{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8)).save(path)


def write_shapes(folder: Path, per_class: int = SHAPES_PER_CLASS) -> None:
    """Draws `per_class` images of each of the 120 classes as class folders."""
    for place, (shape, colour, digit) in enumerate(product(SHAPES, COLOURS, DIGITS)):
        class_folder = folder / f"{colour} {shape} {digit}"
        class_folder.mkdir(parents=True)
        for number in range(per_class):
            image = draw_shape(shape, colour, digit, np.random.default_rng([place, number]))
            image.save(class_folder / f"image{number}.png")


WRITTEN = {"digits": write_digits, "shapes": write_shapes}


@app.command()
def main(
    words: Annotated[
        list[str],
        typer.Argument(
            default_factory=list,
            show_default=False,
            help="digits, shapes, or folders of images (default: digits and shapes); and Hydra overrides.",
        ),
    ],
    seed: Annotated[list[int], typer.Option(default_factory=lambda: [42, 1, 2], help="Seed; can be repeated.")],
) -> None:
    """Measures each data set with each seed, each in a new process."""
    # A folder can have an equals sign in its name.
    names = [word for word in words if word in WRITTEN or Path(word).exists() or "=" not in word]
    overrides = [word for word in words if word not in names]
    if missing := [name for name in names if name not in WRITTEN and not Path(name).exists()]:
        raise ConfigError(f"{missing[0]!r} is neither a folder nor one of {', '.join(WRITTEN)}.")
    for name in names or WRITTEN:
        for one in seed:
            with tempfile.TemporaryDirectory() as folder:
                row = in_new_process(_measure, name, one, overrides, Path(folder))
            write_results("own_data", [row], ("data", "seed", "overrides"))


def _measure(name: str, seed: int, overrides: list[str], folder: Path) -> Row:
    raw_dir = Path(name).absolute()
    if name in WRITTEN:
        raw_dir = folder / "raw"
        WRITTEN[name](raw_dir)
    own = {
        "data.raw_dir": raw_dir,
        "data.processed_dir": folder / "processed",
        "run_dir": folder / "run",
        "ckpt_path": folder / "best_model.pth",
        "evaluation.reports_dir": folder / "reports",
    }
    seeds = [f"seed={seed}", f"data.split.seed={seed}"]
    words = [*(f"{key}={_quoted(path)}" for key, path in own.items()), *seeds, *overrides]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "src.mlops.train", *words], cwd=ROOT, check=True)  # noqa: S603
    train_seconds = time.perf_counter() - started
    config = load_config(words)
    test = evaluate(config)
    pack = prepare(config.data)
    counts = {f"{split}_images": len(pack.load(split).rows) for split in ("train", "val", "test")}
    return {
        "data": name if name in WRITTEN else Path(name).name,
        "seed": seed,
        "overrides": " ".join(overrides),
        "classes": len(pack.classes),
        **counts,
        "test_accuracy": round(test["Accuracy"], 5),
        "test_wrong": test["errors"],
        "test_f1": round(test["F1"], 4),
        "train_seconds": round(train_seconds, 1),
        **_support_vectors(pack),
    }


def _support_vectors(pack: Pack) -> Row:
    """Measures the alternative."""
    train, test = pack.load("train", "val"), pack.load("test")
    if len(train.rows) > MAX_FOR_SVC:
        return {"svc_accuracy": "", "svc_seconds": ""}

    def features(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(train.images[rows].reshape(len(rows), -1) / np.float32(255))

    started = time.perf_counter()
    found = SVC().fit(features(train.rows), train.labels).predict(features(test.rows))
    return {
        "svc_accuracy": round(float((found == test.labels).mean()), 5),
        "svc_seconds": round(time.perf_counter() - started, 1),
    }


def _quoted(path: Path) -> str:
    """Returns a path for a Hydra override."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


if __name__ == "__main__":
    typer_main(app)
