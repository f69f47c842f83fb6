"""Measures OOD detection: how well a model detects images that show none of its classes.

    uv run --with scikit-image==0.26.0 python -m benchmarks.unknown data.raw_dir=../shared/gtsrb
    uv run --with scikit-image==0.26.0 python -m benchmarks.unknown --name outliers ckpt_path=FOLDER/best_model.pth …

Runs the exported model next to `ckpt_path`, which must not come from a final fit, and compares the scores of
`benchmarks.unknown_scores` on the same outputs. The kinds of images are:

- 500 of each kind that `data/synthetic/out_of_distribution.py` renders.
- 20 of each German sign that the model does not know, drawn as they are for training: all of these signs, the speed
  limits among them, and those with or without a shape that GTSRB has.
- 500 square crops at random places of the photographs in scikit-image, and as many of those in scikit-learn, which
  `PHOTOGRAPHS` lists; binary and synthetic images are left out. The side is random, from 32 px to the shorter side of
  the photograph, and the crops are scaled to 64 px. Without scikit-image, its photographs are missing from the results.
- Photographs without a sign: these crops and the rendered scenery together.

Writes benchmarks/results/unknown.csv, and keeps the rows of models with other names. `benchmarks.left_out` measures the
detection of real signs.
"""

import logging
from collections.abc import Iterator
from importlib.resources import files
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image

from benchmarks.environment import Row, write_results
from benchmarks.unknown_scores import Detection, Pixels, Scores
from src.mlops.cli import Overrides, new_app, typer_main
from src.mlops.config import load_config
from src.mlops.data.classes import ClassInfo
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.synthetic.camera import photograph
from src.mlops.data.synthetic.drawing import draw_any_version, german_signs
from src.mlops.data.synthetic.out_of_distribution import SIDE, draw_unknowns
from src.mlops.preprocessing import preprocess

logger = logging.getLogger(__name__)
app = new_app()

SEED = 7
PER_KIND = 500
PER_SIGN = 20
SMALLEST_CROP = 32  # px
# By package: the module and the folder in it, and the photographs there.
PHOTOGRAPHS = {
    "scikit-image": (
        ("skimage", "data"),
        (
            "astronaut.png",
            "brick.png",
            "camera.png",
            "cell.png",
            "chelsea.png",
            "clock_motion.png",
            "coffee.png",
            "coins.png",
            "grass.png",
            "gravel.png",
            "hubble_deep_field.jpg",
            "ihc.png",
            "microaneurysms.png",
            "moon.png",
            "motorcycle_left.png",
            "motorcycle_right.png",
            "page.png",
            "retina.jpg",
            "rocket.jpg",
            "text.png",
        ),
    ),
    "scikit-learn": (("sklearn", "datasets", "images"), ("china.jpg", "flower.jpg")),
}
NO_SIGN = "photographs without a sign"


@app.command()
def main(
    overrides: Overrides,
    name: Annotated[str, typer.Option(help="Name of the model in the table.")] = "default settings",
) -> None:
    """Measures each score on each kind of image."""
    detection = Detection(load_config(overrides), threads=torch.get_num_threads())
    size = detection.classifier.image_size
    kinds = dict(_kinds(detection, size))
    rows: list[Row] = [
        {"model": name, "kind": kind, **row} for kind, scores in kinds.items() for row in detection.rows(scores)
    ]
    write_results("unknown", rows, ("model", "kind", "score"))


def _kinds(detection: Detection, size: int) -> Iterator[tuple[str, Scores]]:
    drawn = {kind: detection.scores(_packed(images, size)) for kind, images in draw_unknowns(PER_KIND, SEED).items()}
    del drawn["other sign"]  # also signs that the model may know
    yield from drawn.items()
    if signs := german_signs()[len(detection.classifier.info.classes) :]:
        yield from _further_signs(detection, signs, size)
    without_sign = {"scenery": drawn["scenery"]}
    for place, package in enumerate(PHOTOGRAPHS):
        try:
            crops = crops_of(package, np.random.default_rng([SEED, place]))
        except ModuleNotFoundError:
            logger.warning("%s is not installed, so its photographs are left out; `uv run --with` adds it", package)
            continue
        without_sign[package] = detection.scores(_packed(crops, size))
        yield f"photographs of {package}", without_sign[package]
    yield f"{NO_SIGN} ({', '.join(without_sign)})", _joined([*without_sign.values()])


def _further_signs(detection: Detection, signs: tuple[ClassInfo, ...], size: int) -> Iterator[tuple[str, Scores]]:
    """Yields the scores of all further signs and of some groups of them."""
    known_shapes = {sign.shape for sign in SIGNS}
    scores = [detection.scores(_packed(_drawings(sign), size)) for sign in signs]
    groups = {
        "all": [True] * len(signs),
        "speed limits": [(sign.number or "").startswith("274-") for sign in signs],
        "shape of a known sign": [sign.shape in known_shapes for sign in signs],
        "other shape": [sign.shape not in known_shapes for sign in signs],
    }
    for group, chosen in groups.items():
        if any(chosen):
            found = [one for one, is_chosen in zip(scores, chosen, strict=True) if is_chosen]
            yield f"further signs: {group} ({len(found)})", _joined(found)


def _drawings(sign: ClassInfo) -> list[Image.Image]:
    sources = (np.random.default_rng([SEED, sign.class_id, number]) for number in range(PER_SIGN))
    return [photograph(draw_any_version(sign, rng), rng, SIDE) for rng in sources]


def crops_of(package: str, rng: np.random.Generator) -> list[Image.Image]:
    """Returns random crops of the photographs that come with a package, RGB of 64 x 64 px.

    Args:
        package: A key of `PHOTOGRAPHS`.
        rng: Source of the random choices.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    (module, *folders), names = PHOTOGRAPHS[package]
    folder = files(module).joinpath(*folders)
    photographs = []
    for name in names:
        with folder.joinpath(name).open("rb") as file, Image.open(file) as image:
            photographs.append(image.convert("RGB"))
    return [_crop(photographs[rng.integers(len(photographs))], rng) for _ in range(PER_KIND)]


def _crop(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = int(np.exp(rng.uniform(np.log(SMALLEST_CROP), np.log(min(photo.size)))))
    x, y = (int(rng.integers(length - side + 1)) for length in photo.size)
    return photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))


def _packed(images: list[Image.Image], size: int) -> Pixels:
    return np.stack([preprocess(image, size) for image in images])


def _joined(parts: list[Scores]) -> Scores:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


if __name__ == "__main__":
    typer_main(app)
