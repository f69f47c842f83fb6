"""Measures how easily drawn signs are told from real ones: the lower the AUROC, the more alike they look.

    uv run python -m benchmarks.realism data.raw_dir=../shared/gtsrb

Renders as many images of each class as the real training split has, at most 150, and trains SignNet with the default
settings for 6 epochs to classify an image as drawn or real. A fifth of the tracks of each class is held out, and the
AUROC is measured on their images, for all classes together and for each class. An AUROC of 0.5 would mean that the
network cannot tell them apart. Test images are not used. Writes benchmarks/results/realism.csv.
"""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.environment import write_results
from src.mlops.cli import Overrides, new_app, typer_main
from src.mlops.config import SyntheticConfig, load_config
from src.mlops.data.additional import prepare_drawn
from src.mlops.data.classes import ClassList
from src.mlops.data.dataset import Batches
from src.mlops.data.packing import Pack, SplitArrays, select, stack
from src.mlops.data.prepare import prepare
from src.mlops.data.splits import REFERENCE
from src.mlops.model import choose_device, predict_logits
from src.mlops.training.fit import fit

app = new_app()

PER_CLASS = 150
DRAWN = SyntheticConfig(tracks_per_class=75, frames_per_track=2, test_tracks_per_class=1, seed=1)
SETTINGS = [
    "training.epochs=6",
    "training.final_fit=false",
    "training.augmentation.mirror=false",
    "training.drawn=null",
]


@app.command()
def main(overrides: Overrides) -> None:
    """Trains the classifier and measures it on the tracks that are held out."""
    config = load_config([*overrides, *SETTINGS])
    real, drawn = prepare(config.data), prepare_drawn(config.data, DRAWN)
    rng = np.random.default_rng(0)
    images = stack(*_same_number(real, drawn, rng))
    class_ids, is_real = images.labels, np.arange(len(images.rows)) < len(images.rows) // 2
    tracks = [path.rsplit("_", 1)[0] for path in images.paths]  # files are named CLASS_TRACK_FRAME
    groups = np.array([f"{kind} {track}" for kind, track in zip(is_real, tracks, strict=True)])
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    training, held_out = next(iter(splitter.split(class_ids, 2 * class_ids + is_real, groups)))
    images = images._replace(labels=is_real.astype(np.int64))
    device = choose_device(config.device)
    batches = Batches(select(images, training), config.training.batch_size_for(len(training)), seed=config.seed)
    kinds = ClassList.of_names(["drawn", "real"])
    with tempfile.TemporaryDirectory() as folder:
        network = fit(config, batches, kinds, real.fingerprint, device, Path(folder))
    tested = Batches(select(images, held_out), config.evaluation.batch_size)
    logits = predict_logits(network, tested.epoch())
    score = logits[:, 1] - logits[:, 0]

    def auroc(part: NDArray[np.bool_]) -> float:
        return round(float(roc_auc_score(is_real[held_out][part], score[part])), 4)

    rows = [{"class": "all", "images": len(held_out), "auroc": auroc(np.ones(len(held_out), bool))}]
    for sign in real.classes:
        part = class_ids[held_out] == sign.class_id
        rows.append({"class": sign.name, "images": int(part.sum()), "auroc": auroc(part)})
    write_results("realism", rows, ("class",))


def _same_number(real: Pack, drawn: Pack, rng: np.random.Generator) -> tuple[SplitArrays, SplitArrays]:
    """Returns the same number of images of each class, at most `PER_CLASS`, of both kinds."""
    # Test images are named without their track, so two of one sign could be on both sides of the split.
    first, second = real.load("train"), drawn.load("train", "val", REFERENCE)
    chosen: tuple[list[int], list[int]] = ([], [])
    for class_id in range(len(real.classes)):
        places = [np.flatnonzero(arrays.labels == class_id) for arrays in (first, second)]
        count = min(PER_CLASS, *map(len, places))
        for kind, found in zip(chosen, places, strict=True):
            kind.extend(rng.permutation(found)[:count].tolist())
    return select(first, np.array(chosen[0])), select(second, np.array(chosen[1]))


if __name__ == "__main__":
    typer_main(app)
