"""Measures the accuracy of exported models under fixed camera shifts, and compares them with the first one.

    uv run python -m benchmarks.camera_shifts old=old.onnx new=new.onnx data.raw_dir=../shared/gtsrb
    uv run python -m benchmarks.camera_shifts a=a.onnx b=b.onnx evaluation.split=val data.raw_dir=../shared/gtsrb

The shifts change the raw images of `evaluation.split`, at their own resolution, so that models with inputs of different
sizes see the same camera: warmer and colder white balance, lighter and darker midtones, sharpening and lower resolution
in strengths 1 to 3 (benchmarks/shifts.py), and JPEG with quality 75 (strength 1) and 40 (strength 2). They contain no
random choice. The shift `none` is the unchanged image.

`wrong_only_here` counts the images that this model misclassifies and the first one does not, `wrong_only_there` the
reverse. `p_value` is the probability that a model as good as the first one loses by at least as much (McNemar's exact
test, one-sided). The shift `all` is the mean over all shifts and `none`; its comparison counts the images that this
model misclassifies under more or fewer shifts than the first one. Writes benchmarks/results/camera_shifts.csv without
earlier results, which can be of other models.
"""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest

from benchmarks.environment import Row, write_results
from benchmarks.shifts import CAMERAS, FURTHER_CAMERAS, STRENGTHS
from src.mlops.cli import new_app, typer_main
from src.mlops.config import load_config
from src.mlops.data.prepare import prepare
from src.mlops.errors import ConfigError, DataError
from src.mlops.evaluation.parity import labelled_images_of
from src.mlops.evaluation.reencoding import QUALITIES, encoded
from src.mlops.inference.classifier import Classifier
from src.mlops.io.progress import progress_bar
from src.mlops.preprocessing import open_image, preprocess

app = new_app()

BATCH = 32  # raw images at a time, each in all versions
ALL = "all"
_CAMERAS = CAMERAS | FURTHER_CAMERAS
SHIFTS = [
    ("none", 0),
    *((name, strength) for name in _CAMERAS for strength in STRENGTHS),
    *(("JPEG", 1 + place) for place in range(len(QUALITIES))),
]


@app.command()
def main(
    words: Annotated[list[str], typer.Argument(help="NAME=FILE.onnx for each model, and Hydra overrides.")],
) -> None:
    """Measures each model under each shift."""
    files = [word.split("=", 1) for word in words if "=" in word and word.endswith(".onnx")]
    names = [name for name, _ in files]
    if not files or len(set(names)) < len(names):
        raise ConfigError(
            f"Name at least one model, each with its own name, as NAME=FILE.onnx; found: {' '.join(words)}"
        )
    config = load_config([word for word in words if not word.endswith(".onnx")])
    models = {name: Classifier.load(Path(file)) for name, file in files}
    split, pack = config.evaluation.split, prepare(config.data)
    for model in models.values():
        pack.require_fit(pack.image_size, model.info.classes)  # only the classes: the images are read again
        if split == "val" and model.info.saw_validation:
            raise DataError(
                f"{model.path} is a final-fit model, so it was also trained on the validation images. Use "
                "evaluation.split=test, or export best_model.pth in its run folder."
            )
    paths, labels = labelled_images_of(config)
    wrong = _wrong(models, paths, labels)
    rows: list[Row] = []
    for name, model in models.items():
        facts = {"model": name, "model_version": model.version, "split": split}
        rows += [facts | row for row in compared(wrong[name], wrong[names[0]] if name != names[0] else None)]
        sys.stderr.write(
            f"{name}: {rows[-1]['accuracy']:.2%} over all shifts, {rows[-len(SHIFTS) - 1]['accuracy']:.2%} without\n"
        )
    write_results("camera_shifts", rows, ())


def _wrong(models: dict[str, Classifier], paths: list[Path], labels: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Returns for each model which images it misclassifies under which shift, bool [shifts, N]."""
    wrong = {name: np.empty((len(SHIFTS), len(paths)), bool) for name in models}
    sizes = {model.image_size for model in models.values()}
    with progress_bar("classifying shifted images", len(paths)) as bar:
        for start in range(0, len(paths), BATCH):
            versions = [shifted_versions(open_image(path)) for path in paths[start : start + BATCH]]
            part = slice(start, start + len(versions))
            inputs = {
                size: np.stack(
                    [[preprocess(image, size) for image in shifted] for shifted in zip(*versions, strict=True)]
                )
                for size in sizes
            }
            for name, model in models.items():
                for place, images in enumerate(inputs[model.image_size]):
                    wrong[name][place, part] = model.run(images).probabilities.argmax(axis=1) != labels[part]
            bar.update(len(versions))
    return wrong


def shifted_versions(image: Image.Image) -> list[Image.Image]:
    """Returns an RGB image under each of `SHIFTS`."""
    pixels = np.asarray(image)[None]
    cameras = [Image.fromarray(change(pixels, strength)[0]) for change in _CAMERAS.values() for strength in STRENGTHS]
    return [image, *cameras, *(encoded(image, quality) for quality in QUALITIES)]


def compared(wrong: NDArray[np.bool_], first: NDArray[np.bool_] | None) -> list[Row]:
    """Returns a row for each shift, and a last one for all of them together.

    Args:
        wrong: Which images a model misclassifies under each of `SHIFTS`, bool [shifts, N].
        first: The same for the model that it is compared with; None if it is the first one.
    """
    rows: list[Row] = []
    for place, (shift, strength) in enumerate([*SHIFTS, (ALL, "")]):
        part = slice(None) if shift == ALL else slice(place, place + 1)
        row = {
            "shift": shift,
            "strength": strength,
            "images": wrong.shape[1],
            "wrong": int(wrong[part].sum()),
            "accuracy": round(1 - float(wrong[part].mean()), 5),
            **dict.fromkeys(("wrong_only_here", "wrong_only_there", "p_value"), ""),
        }
        if first is not None:
            difference = wrong[part].sum(axis=0) - first[part].sum(axis=0)
            here, there = int((difference > 0).sum()), int((difference < 0).sum())
            chance = binomtest(here, here + there, 0.5, alternative="greater").pvalue if here + there else 1.0
            row |= {"wrong_only_here": here, "wrong_only_there": there, "p_value": round(float(chance), 5)}
        rows.append(row)
    return rows


if __name__ == "__main__":
    typer_main(app)
