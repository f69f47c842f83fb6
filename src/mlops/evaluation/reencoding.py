"""Measures how often the predicted class changes when an image is encoded again as JPEG: `inv model.reencoding`.

Phones, messengers and web pages encode images again. The measurement does so at the original resolution of each image,
because a block of JPEG, 8 x 8 px, covers a larger part of a smaller image.
"""

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from src.mlops.cli import hydra_main
from src.mlops.config import Config
from src.mlops.evaluation.parity import labelled_images_of
from src.mlops.inference.classifier import Classifier
from src.mlops.io.progress import progress_bar
from src.mlops.preprocessing import open_image, preprocess

logger = logging.getLogger("src.mlops.evaluation.reencoding")
QUALITIES = (75, 40)  # Pillow's default, and strong compression
_BATCH = 64


def reencoding(config: Config) -> dict[str, Any]:
    """Classifies the raw validation images unchanged and encoded again as JPEG.

    It never reads test images, so the results can guide the training.

    Args:
        config: `ckpt_path` is the checkpoint with its export next to it; `data.raw_dir` is the folder of the images.

    Returns:
        The number of `images`; the `accuracy` on unchanged images; and by quality, the share of images whose predicted
        class changes (`changed`) and the accuracy on encoded images (`encoded_accuracy`).

    Raises:
        CheckpointError: There is no exported model.
        DataError: There is no folder of raw images, or there are no validation images.
    """
    classifier = Classifier.load(config.ckpt_path.with_suffix(".onnx"))
    if classifier.info.saw_validation:
        logger.warning("This is a final-fit model, so it was also trained on the validation images")
    paths, labels = labelled_images_of(config.replace({"evaluation.split": "val"}))
    classes = []
    with progress_bar("classifying encoded images", len(paths)) as bar:
        for start in range(0, len(paths), _BATCH):
            versions = np.stack([_versions(path, classifier.image_size) for path in paths[start : start + _BATCH]], 1)
            classes.append([classifier.run(images).probabilities.argmax(axis=1) for images in versions])
            bar.update(versions.shape[1])
    unchanged, *encoded = np.concatenate(classes, axis=1)
    by_quality = dict(zip(QUALITIES, encoded, strict=True))
    results = {
        "images": len(labels),
        "accuracy": float((unchanged == labels).mean()),
        "changed": {quality: float((found != unchanged).mean()) for quality, found in by_quality.items()},
        "encoded_accuracy": {quality: float((found == labels).mean()) for quality, found in by_quality.items()},
    }
    _show(results)
    return results


def _versions(path: Path, size: int) -> NDArray[np.uint8]:
    """Returns the input of the network for an image and for its encoded versions, uint8 [V, size, size, 3]."""
    image = open_image(path)
    return np.stack([preprocess(version, size) for version in (image, *(encoded(image, q) for q in QUALITIES))])


def encoded(image: Image.Image, quality: int) -> Image.Image:
    """Encodes an image as JPEG, with chroma of half the resolution, and decodes it.

    Args:
        image: RGB image.
        quality: Pillow's quality, 1 to 95.
    """
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return open_image(file.getvalue())


def _show(results: dict[str, Any]) -> None:
    table = Table("validation images", "accuracy", "other class than unchanged")
    table.add_row(f"unchanged ({results['images']:,})", f"{results['accuracy']:.2%}", "")
    for quality, changed in results["changed"].items():
        table.add_row(f"JPEG, quality {quality}", f"{results['encoded_accuracy'][quality]:.2%}", f"{changed:.2%}")
    Console().print(table)


if __name__ == "__main__":
    hydra_main(reencoding)
