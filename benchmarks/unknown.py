"""Measures OOD detection: how well the model detects images that show none of the 43 signs.

    uv run python -m benchmarks.unknown data.raw_dir=../shared/gtsrb
    uv run python -m benchmarks.unknown data.raw_dir=../shared/gtsrb --left-out 4 --left-out 17 --left-out 25

Runs the exported model next to `ckpt_path` (not from a final fit) on 500 images of each kind that
`data/synthetic/out_of_distribution.py` renders. With `--left-out`, it first trains a model without the given classes,
with the default experiment unless overridden, and runs it on the test images of these classes. These images are the
hardest, because they show signs.

Compares three scores: the energy, which the project uses; the maximum softmax probability (MSP); and the cosine
distance of the embedding to the nearest of 10,000 training images. The threshold of each score gives a false-positive
rate of 1 % on the validation images. `auroc` compares the images with the test images of known signs. Writes
benchmarks/results/unknown.csv.
"""

from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.environment import KEPT, Overrides, Row, write_results
from src.mlops.cli import new_app, typer_main
from src.mlops.config import Config, load_config
from src.mlops.data.packing import SplitArrays, without
from src.mlops.data.prepare import prepare
from src.mlops.data.synthetic.out_of_distribution import draw_unknowns
from src.mlops.errors import DataError
from src.mlops.inference.classifier import Classifier, Outputs
from src.mlops.preprocessing import preprocess
from src.mlops.training.train import train

app = new_app()

PER_KIND = 500
SEED = 7
BATCH = 256
Scores = dict[str, NDArray[np.floating]]


@app.command()
def main(
    overrides: Overrides,
    left_out: Annotated[
        list[int], typer.Option(default_factory=list, show_default=False, help="Class to leave out; can be repeated.")
    ],
) -> None:
    """Measures each score on each kind of image."""
    config = load_config(overrides)
    if left_out:
        folder = KEPT / f"without-{'-'.join(map(str, left_out))}"
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
            f"{config.ckpt_path} is a final-fit model, so it was also trained on the validation images that the "
            "thresholds need. Set ckpt_path to best_model.pth in its run folder."
        )
    pack = prepare(config.data)
    pack.require_fit(classifier.image_size, classifier.info.classes)
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
            "MSP": -outputs.probabilities.max(axis=1),
            "nearest embedding": -np.concatenate(nearest),
        }

    validation = scores(_images(without(pack.load("val"), left_out)))
    thresholds = {name: np.quantile(values, 0.99) for name, values in validation.items()}
    test = pack.load("test")
    known = scores(_images(without(test, left_out)))
    kinds: dict[str, NDArray[np.uint8]]
    if left_out:
        images = _images(test)
        kinds = {f"left out: {pack.classes[c].name}": images[test.labels == c] for c in left_out}
    else:
        drawn = draw_unknowns(PER_KIND, SEED)
        kinds = {
            kind: np.stack([preprocess(image, classifier.image_size) for image in images])
            for kind, images in drawn.items()
        }
    rows: list[Row] = []
    for kind, images in kinds.items():
        found = scores(images)
        for name, threshold in thresholds.items():
            labels = np.repeat([0, 1], [len(known[name]), len(found[name])])
            row = {
                "kind": kind,
                "score": name,
                "images": len(images),
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
    typer_main(app)
