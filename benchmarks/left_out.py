"""Measures how well a network detects signs of a class that it was not trained on, for each class.

    uv run python -m benchmarks.left_out data.raw_dir=../shared/gtsrb
    uv run python -m benchmarks.left_out 4 17 25 data.raw_dir=../shared/gtsrb training.optimizer.lr=0.002
    OMP_NUM_THREADS=1 uv run python -m benchmarks.left_out --trainings 11 --part 1/2 data.raw_dir=../shared/gtsrb &
    OMP_NUM_THREADS=1 uv run python -m benchmarks.left_out --trainings 11 --part 2/2 data.raw_dir=../shared/gtsrb

Trains a cheap variant of `experiment=teacher` (`CHEAP`; overrides replace its settings) without one class: no real,
mirrored or drawn image of this class is used for training, for the choice of the epoch, or for the thresholds. The
unknown images are the test images of this class, and the known ones those of the other classes. The scores are those of
`benchmarks.unknown_scores`.

With `--trainings 11`, each training leaves out several classes: 0, 11, 22 and 33 in the first one. Similar signs have
similar ids, so this puts them into different trainings. Fewer trainings take less time, but each network knows fewer
classes.

Only the classes themselves are left out. The class of a mirrored image is still trained, but its images are not
mirrored: a network without *bend to the left* knows *bend to the right*.

Writes benchmarks/results/left_out.csv, with a row per class and score. A training that has rows for the same overrides
is not repeated, and an interrupted one continues. Models are in models/benchmarks/left_out/; delete them when the code
of the training has changed. Several processes can write to the file.
"""

import hashlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.environment import KEPT, Row, names_and_overrides, read_results, write_results
from benchmarks.unknown_scores import Detection, images_of
from src.mlops.cli import new_app, typer_main
from src.mlops.config import Config, load_config
from src.mlops.data.additional import prepare_training
from src.mlops.data.packing import Pack, select
from src.mlops.data.prepare import prepare
from src.mlops.errors import ConfigError, DataError
from src.mlops.modelfile.checkpoint import load_checkpoint
from src.mlops.training.run_dir import CONFIG
from src.mlops.training.train import train

logger = logging.getLogger(__name__)
app = new_app()

CHEAP = [
    "experiment=teacher",
    "training.precision=bf16",
    "training.drawn.tracks_per_class=20",
    "training.drawn.frames_per_track=6",
    "training.outliers.images=16000",
]
_KEYS = ("overrides", "trainings", "left_out", "class", "score")
# Overrides that do not change the result.
_LOCATIONS = ("data.raw_dir=", "data.processed_dir=", "data.processed_url=", "evaluation.", "device=")


@app.command()
def main(
    words: Annotated[
        list[str],
        typer.Argument(default_factory=list, show_default=False, help="Ids of classes, default: all; and overrides."),
    ],
    trainings: Annotated[int, typer.Option(min=0, help="Trainings to divide the classes among; 0: one per class.")] = 0,
    part: Annotated[str, typer.Option(help="Which part of the trainings, such as 1/2: the first of two.")] = "1/1",
) -> None:
    """Leaves out each class once."""
    number, parts = _part(part)
    pack = prepare(load_config([word for word in words if "=" in word]).data)
    known = [str(entry.class_id) for entry in pack.classes]
    names, given = names_and_overrides(words, known, "Class")
    changed = {word.partition("=")[0] for word in given}
    overrides = [*(word for word in CHEAP if word.partition("=")[0] not in changed), *given]
    label = " ".join(word for word in overrides if not word.startswith(_LOCATIONS))
    classes = names or known
    count = min(trainings or len(classes), len(classes))
    groups = [classes[start::count] for start in range(count)]
    for group in groups[number - 1 :: parts]:
        listed = ",".join(group)
        if any((row["overrides"], row["left_out"]) == (label, listed) for row in read_results("left_out")):
            logger.info("The training without %s is measured already", listed)
            continue
        about = {"overrides": label, "trainings": trainings or "one per class", "left_out": listed}
        rows = _measure(pack, [int(name) for name in group], overrides, KEPT / "left_out" / _digest(label) / listed)
        write_results("left_out", [about | row for row in rows], _KEYS)


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    number, parts = map(int, found.groups()) if found else (1, 0)
    if number > parts:
        raise ConfigError(f"--part must be such as 1/2, the first of two parts, but is {text!r}.")
    return number, parts


def _digest(label: str) -> str:
    return hashlib.sha256(label.encode()).hexdigest()[:8]


def _measure(pack: Pack, classes: list[int], overrides: list[str], folder: Path) -> Iterator[Row]:
    config = load_config(
        [
            *overrides,
            "training.final_fit=false",  # it would train on the validation images, too
            f"training.leave_out={classes}",
            f"training.resume={(folder / 'run' / CONFIG).is_file()}",
            f"run_dir='{folder}/run'",
            f"ckpt_path='{folder}/best_model.pth'",
        ]
    )
    best = train(config)
    _require_unseen(config, pack, classes)
    detection = Detection(config, threads=torch.get_num_threads())
    test = detection.test
    seconds = load_checkpoint(config.ckpt_path).history[-1]["seconds"]
    for class_id in classes:
        unknown = detection.scores(images_of(select(test, (test.labels == class_id).nonzero()[0])))
        about = {
            "class": class_id,
            "name": pack.classes[class_id].name,
            "val_accuracy": round(best["val_Accuracy"], 5),
            "train_seconds": round(seconds),
        }
        yield from (about | row for row in detection.rows(unknown))


def _require_unseen(config: Config, pack: Pack, classes: list[int]) -> None:
    """Checks that no image of the classes was used for the training or its validation.

    Raises:
        DataError: There are such images.
    """
    data = prepare_training(config, pack)
    for use, arrays in (("training", data.training_images("train")), ("validation", data.load("val"))):
        if count := int(np.isin(arrays.labels, classes).sum()):
            raise DataError(f"The classes {classes} are left out, but {count} images of them are used for {use}.")


if __name__ == "__main__":
    typer_main(app)
