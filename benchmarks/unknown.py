"""How well pictures that are none of the 43 signs are recognised as unknown.

    uv run python -m benchmarks.unknown data.raw_dir=../shared/gtsrb
    uv run python -m benchmarks.unknown data.raw_dir=../shared/gtsrb --left-out 4 17 25

Asks the exported model at `ckpt_path` (not of a final fit) for 500 pictures of each kind that `data/unknowns.py` draws.
With `--left-out` it trains one without the real signs of these classes first (the default experiment otherwise), and
asks it for the test images of just them: the hardest pictures, since a sign is what they are. Three scores are
compared: the energy that the project uses, the highest probability, and the cosine distance to the nearest of 10,000
training images in the embedding. Each has its threshold where 1 % of the validation images are called unknown; `auroc`
is against the test images of known signs. Writes benchmarks/results/unknown.csv.
"""

import argparse

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.environment import Row, command_line, parse, write_results
from src.mlops import ROOT
from src.mlops.config import Config, load_config
from src.mlops.data.packing import SplitArrays, without
from src.mlops.data.prepare import prepare
from src.mlops.data.signs import SIGNS
from src.mlops.data.unknowns import draw_unknowns
from src.mlops.errors import DataError
from src.mlops.evaluate import require_same_size
from src.mlops.inference import Classifier, Outputs
from src.mlops.preprocessing import preprocess
from src.mlops.train import train

PICTURES = 500
SEED = 7
BATCH = 256
Scores = dict[str, NDArray[np.floating]]


def main(words: list[str]) -> None:
    """Measures each kind with each score."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unknown")
    parser.add_argument("--left-out", type=int, nargs="+", default=[])
    options, overrides = parse(parser, words)
    config = load_config(overrides)
    left_out: list[int] = options.left_out
    if left_out:
        folder = ROOT / "models" / "benchmarks" / f"without-{'-'.join(map(str, left_out))}"
        config = config.replace(
            {
                "training.leave_out": left_out,
                "ckpt_path": str(folder / "best_model.pth"),
                "run_dir": str(folder / "run"),
            }
        )
        if not config.ckpt_path.is_file():
            train(config)
    _measure(config, left_out)


def _measure(config: Config, left_out: list[int]) -> None:
    classifier = Classifier.load(config.ckpt_path.with_suffix(".onnx"), threads=2)
    if classifier.info.saw_validation:
        raise DataError(
            f"expected a model that was not trained on validation images, for its thresholds, found a final fit at "
            f"{config.ckpt_path}. Name its run's own best_model.pth."
        )
    pack = prepare(config.data)
    require_same_size(pack, classifier.image_size)
    training = without(pack.load("train"), left_out)
    sample = np.random.default_rng(0).permutation(len(training.rows))[:10_000]
    bank = _normalised(_outputs(classifier, training.images[training.rows[np.sort(sample)]]).embedding)

    def scores(images: NDArray[np.uint8]) -> Scores:
        outputs = _outputs(classifier, images)
        nearest = [
            (_normalised(outputs.embedding[start : start + BATCH]) @ bank.T).max(axis=1)
            for start in range(0, len(images), BATCH)
        ]
        return {
            "energy": outputs.energy,
            "highest probability": -outputs.probabilities.max(axis=1),
            "nearest embedding": -np.concatenate(nearest),
        }

    validation = scores(_images(without(pack.load("val"), left_out)))
    thresholds = {name: np.quantile(values, 0.99) for name, values in validation.items()}
    test = pack.load("test")
    known = scores(_images(without(test, left_out)))
    kinds: dict[str, NDArray[np.uint8]]
    if left_out:
        images = _images(test)
        kinds = {f"left out: {SIGNS[c].name}": images[test.labels == c] for c in left_out}
    else:
        drawn = draw_unknowns(PICTURES, SEED)
        kinds = {
            kind: np.stack([preprocess(picture, classifier.image_size) for picture in pictures])
            for kind, pictures in drawn.items()
        }
    rows: list[Row] = []
    for kind, pictures in kinds.items():
        found = scores(pictures)
        for name, threshold in thresholds.items():
            labels = np.repeat([0, 1], [len(known[name]), len(found[name])])
            row = {
                "kind": kind,
                "score": name,
                "pictures": len(pictures),
                "auroc": round(float(roc_auc_score(labels, np.concatenate([known[name], found[name]]))), 4),
                "called_unknown": round(float((found[name] > threshold).mean()), 4),
                "known_called_unknown": round(float((known[name] > threshold).mean()), 4),
            }
            rows.append(row)
    write_results("unknown", rows, ("kind", "score"))


def _images(arrays: SplitArrays) -> NDArray[np.uint8]:
    return arrays.images[arrays.rows]


def _outputs(classifier: Classifier, images: NDArray[np.uint8]) -> Outputs:
    parts = [classifier.run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("probabilities", "embedding", "energy")
    }
    return Outputs(**joined)


def _normalised(embedding: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(embedding / np.linalg.norm(embedding, axis=1, keepdims=True).clip(1e-9))


if __name__ == "__main__":
    command_line(main)
