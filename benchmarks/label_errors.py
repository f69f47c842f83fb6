"""Measures how many wrong labels `inv data.label-errors` finds.

    uv run python -m benchmarks.label_errors data.raw_dir=../shared/gtsrb
    uv run python -m benchmarks.label_errors data.raw_dir=../shared/gtsrb --unit track

Gives 2 % of the training and validation images a random other label: single images, or all images of a track. Then it
trains the models of all folds with these labels, and ranks the images. The tracks are those of the original data. The
test images are not used.

Compares rankings of the same out-of-fold predictions: by the probability of the label, which `inv data.label-errors`
uses, and which ranks like the loss; by the margin to the most probable other class; and with the images first whose
label confident learning contradicts directly (off-diagonal of the confident joint). `found_in_first_3` is the share of
the wrong labels among the first 3 % of the images. `listed` is the number of images in `label_errors.csv`, and
`listed_wrong` how many of them have a wrong label. Writes benchmarks/results/label_errors.csv.
"""

import tempfile
import time
from enum import StrEnum
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.environment import Row, write_results
from src.mlops.cli import Overrides, new_app, typer_main
from src.mlops.config import load_config
from src.mlops.data.checks import merge_tracks
from src.mlops.data.prepare import prepare
from src.mlops.evaluation.confident_learning import confident_classes, doubtful_labels, own_probability
from src.mlops.evaluation.folds import divide
from src.mlops.evaluation.label_errors import out_of_fold
from src.mlops.model import choose_device

app = new_app()

WRONG = 0.02  # share of the images with a wrong label
FIRST = 0.03  # share of the images at the beginning of a ranking


class Unit(StrEnum):
    """What gets a wrong label at once."""

    image = "image"
    track = "track"


@app.command()
def main(
    overrides: Overrides,
    seed: Annotated[list[int], typer.Option(default_factory=lambda: [0], help="Seed of the changes; can be repeated.")],
    unit: Annotated[Unit, typer.Option(help="Change labels of single images, or of complete tracks.")] = Unit.image,
) -> None:
    """Measures each ranking for each seed."""
    with tempfile.TemporaryDirectory() as folder:
        config = load_config([*overrides, f"run_dir={folder}"])
        pack = prepare(config.data)
        arrays = pack.load("train", "val")
        tracks = merge_tracks(pack.index().loc[arrays.rows]).to_numpy()
        for one in seed:
            units = np.arange(len(tracks)) if unit == Unit.image else tracks
            labels = change_labels(arrays.labels, units, len(pack.classes), one)
            started = time.perf_counter()
            folds = divide(labels, tracks, config.seed)
            changed = arrays._replace(labels=labels)
            predictions = out_of_fold(config, pack, changed, folds, choose_device(config.device))
            seconds = time.perf_counter() - started
            wrong = labels != arrays.labels
            listed = doubtful_labels(predictions, labels)
            row = {
                "unit": unit.value,
                "seed": one,
                "images": len(labels),
                "wrong": int(wrong.sum()),
                "accuracy": round(float((predictions.argmax(axis=1) == arrays.labels).mean()), 4),
                "listed": len(listed),
                "listed_wrong": int(wrong[listed].sum()),
                "seconds": round(seconds),
            }
            rankings = _rankings(predictions, labels)
            rows = [row | _measure(name, order, wrong) for name, order in rankings.items()]
            write_results("label_errors", rows, ("unit", "seed", "ranking"))


def change_labels(labels: NDArray[np.int64], units: NDArray[np.int64], classes: int, seed: int) -> NDArray[np.int64]:
    """Returns labels of which about 2 % are a random other class.

    Args:
        labels: The labels, int64 [N].
        units: The images with the same number, int64 [N], get the same new label.
        classes: Number of classes.
        seed: Seed of the choice.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(np.unique(units))
    sizes = np.bincount(units)[order]
    chosen = order[: np.searchsorted(sizes.cumsum(), WRONG * len(labels)) + 1]
    shift = np.zeros(units.max() + 1, np.int64)
    shift[chosen] = generator.integers(1, classes, len(chosen))
    return np.asarray((labels + shift[units]) % classes)


def _rankings(predictions: NDArray[np.floating], labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    own = own_probability(predictions, labels)
    others = predictions.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    confident = confident_classes(predictions, labels)
    contradicted = (confident >= 0) & (confident != labels)
    return {
        "probability of the label": np.argsort(own, kind="stable"),
        "margin": np.argsort(own - others.max(axis=1), kind="stable"),
        "confident joint, probability": np.lexsort((own, ~contradicted)),
    }


def _measure(name: str, order: NDArray[np.int64], wrong: NDArray[np.bool_]) -> Row:
    found = {
        f"found_in_first_{round(100 * share)}": round(
            float(wrong[order[: round(share * len(order))]].sum() / wrong.sum()), 4
        )
        for share in (0.01, WRONG, FIRST)
    }
    return {"ranking": name} | found


if __name__ == "__main__":
    typer_main(app)
