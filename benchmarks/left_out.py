"""Measures how well a network detects signs of a class that it was not trained on, for each of the classes in turn.

    uv run python -m benchmarks.left_out data.raw_dir=../shared/gtsrb
    uv run python -m benchmarks.left_out 4 17 25 data.raw_dir=../shared/gtsrb training.optimizer.lr=0.002
    OMP_NUM_THREADS=1 uv run python -m benchmarks.left_out --part 1/2 data.raw_dir=../shared/gtsrb &
    OMP_NUM_THREADS=1 uv run python -m benchmarks.left_out --part 2/2 data.raw_dir=../shared/gtsrb

Trains a cheap variant of `experiment=record` (`CHEAP`; overrides replace its settings) without one class: no real,
mirrored or drawn image of this class is used for training, for the choice of the epoch, or for the thresholds. The
unknown images are the test images of this class, and the known ones those of the other classes. The scores are those of
`benchmarks.unknown_scores`.

Only the class itself is left out. The class of its mirrored image is still trained, but its images are not mirrored: a
network without *bend to the left* knows *bend to the right*.

Writes benchmarks/results/left_out.csv, with a row per class and score. A class that has rows for the same overrides is
not measured again, and an interrupted training continues. Models are in models/benchmarks/left_out/; delete them when
the code of the training has changed. Several processes can write to the file.
"""

import hashlib
import logging
import re
from pathlib import Path
from typing import Annotated

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
    "experiment=record",
    "training.precision=bf16",
    "training.drawn.tracks_per_class=20",
    "training.outliers.images=16000",
]
# Overrides that do not change the result.
_LOCATIONS = ("data.raw_dir=", "data.processed_dir=", "data.processed_url=", "evaluation.", "device=")


@app.command()
def main(
    words: Annotated[
        list[str],
        typer.Argument(default_factory=list, show_default=False, help="Ids of classes, default: all; and overrides."),
    ],
    part: Annotated[str, typer.Option(help="Which part of the classes, such as 1/2: the first of two.")] = "1/1",
) -> None:
    """Leaves out each class in turn."""
    number, parts = _part(part)
    pack = prepare(load_config([word for word in words if "=" in word]).data)
    known = [str(entry.class_id) for entry in pack.classes]
    names, given = names_and_overrides(words, known, "Class")
    changed = {word.partition("=")[0] for word in given}
    overrides = [*(word for word in CHEAP if word.partition("=")[0] not in changed), *given]
    label = " ".join(word for word in overrides if not word.startswith(_LOCATIONS))
    for name in (names or known)[number - 1 :: parts]:
        if any((row["overrides"], row["class"]) == (label, name) for row in read_results("left_out")):
            logger.info("Class %s is measured already", name)
            continue
        rows = _measure(pack, int(name), overrides, KEPT / "left_out" / _digest(label) / name)
        write_results("left_out", [{"overrides": label, **row} for row in rows], ("overrides", "class", "score"))


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    number, parts = map(int, found.groups()) if found else (1, 0)
    if number > parts:
        raise ConfigError(f"--part must be such as 1/2, the first of two parts, but is {text!r}.")
    return number, parts


def _digest(label: str) -> str:
    return hashlib.sha256(label.encode()).hexdigest()[:8]


def _measure(pack: Pack, class_id: int, overrides: list[str], folder: Path) -> list[Row]:
    config = load_config(
        [
            *overrides,
            "training.final_fit=false",  # it would train on the validation images, too
            f"training.leave_out=[{class_id}]",
            f"training.resume={(folder / 'run' / CONFIG).is_file()}",
            f"run_dir='{folder}/run'",
            f"ckpt_path='{folder}/best_model.pth'",
        ]
    )
    best = train(config)
    _require_unseen(config, pack, class_id)
    detection = Detection(config, threads=torch.get_num_threads())
    test = detection.test
    unknown = detection.scores(images_of(select(test, (test.labels == class_id).nonzero()[0])))
    about = {
        "class": class_id,
        "name": pack.classes[class_id].name,
        "val_accuracy": round(best["val_Accuracy"], 5),
        "train_seconds": round(load_checkpoint(config.ckpt_path).history[-1]["seconds"]),
    }
    return [about | row for row in detection.rows(unknown)]


def _require_unseen(config: Config, pack: Pack, class_id: int) -> None:
    """Checks that no image of the class was used for the training or its validation.

    Raises:
        DataError: There are such images.
    """
    data = prepare_training(config, pack)
    for use, arrays in (("training", data.training_images("train")), ("validation", data.load("val"))):
        if count := int((arrays.labels == class_id).sum()):
            raise DataError(f"Class {class_id} is left out, but {count} images of it are used for {use}.")


if __name__ == "__main__":
    typer_main(app)
