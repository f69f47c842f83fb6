"""Measures accuracy with corruptions and stickers and writes reports/latest/robustness.json: `inv model.robustness`."""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.mlops.cli import hydra_main
from src.mlops.config import Config
from src.mlops.data.classes import ClassList
from src.mlops.data.prepare import prepare
from src.mlops.errors import DataError
from src.mlops.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from src.mlops.evaluation.measurements import ROBUSTNESS_FILE
from src.mlops.evaluation.plots import draw_corrupted, draw_robustness, draw_stickers
from src.mlops.evaluation.stickers import measure_stickers
from src.mlops.inference.classifier import Classifier
from src.mlops.io.files import to_json, write_atomically
from src.mlops.io.progress import progress_bar

logger = logging.getLogger("src.mlops.evaluation.robustness")
IMAGES = 2000  # sampled from the split; each is classified in 65 corrupted versions
WITH_STICKERS = 13_000  # images sampled from the split; each is classified in 6 versions with stickers
BATCH = 200


def robustness(config: Config) -> dict[str, Any]:
    """Measures the export of the model at `config.ckpt_path` on changed images of `evaluation.split`.

    Args:
        config: `ckpt_path` is the checkpoint with its export next to it; `data` says where the images are.

    Returns:
        The content of robustness.json: accuracy without corruption (`clean`), `accuracy` by corruption for the five
        severities, their `mean`, the `worst_classes` across all corruptions, the results of the behaviour tests
        (`invariance`, `direction`), and the results with `stickers` (see `measure_stickers`) on
        `images_with_stickers` images.

    Raises:
        CheckpointError: There is no exported model.
        DataError: The split has no images, the images do not have the size and classes of the model, or the reports
            cannot be written.
    """
    classifier = Classifier.load(config.ckpt_path.with_suffix(".onnx"))
    pack = prepare(config.data)
    pack.require_fit(classifier.image_size, classifier.info.classes)
    known = classifier.info.classes
    # If the model knows more classes, they can be mirror images of others. Files of earlier releases have no mirrors.
    classes = known if len(known) > len(pack.classes) else pack.classes
    arrays = pack.load(config.evaluation.split)
    order = np.random.default_rng(0).permutation(len(arrays.rows))
    chosen, with_stickers = order[:IMAGES], order[:WITH_STICKERS]
    images, labels = arrays.images[arrays.rows[chosen]], arrays.labels[chosen]

    clean = predicted_classes(classifier, images)
    accuracy: dict[str, list[float]] = {}
    right = np.zeros(len(labels))
    with progress_bar("classifying corrupted images", len(CORRUPTIONS) * len(SEVERITIES)) as bar:
        for name in CORRUPTIONS:
            accuracy[name] = []
            for severity in SEVERITIES:
                correct = predicted_classes(classifier, corrupt(images, name, severity)) == labels
                right += correct
                accuracy[name].append(float(correct.mean()))
                bar.update()
    results: dict[str, Any] = {
        "split": config.evaluation.split,
        "images": len(labels),
        "model_version": classifier.version,
        "clean": float((clean == labels).mean()),
        "mean": float(np.mean(list(accuracy.values()))),
        "accuracy": accuracy,
        "worst_classes": _worst_classes(labels, right / (len(CORRUPTIONS) * len(SEVERITIES)), classes),
        **_behaviour(classifier, images, labels, clean, classes),
        "images_with_stickers": len(with_stickers),
        "stickers": measure_stickers(
            classifier, arrays.images[arrays.rows[with_stickers]], arrays.labels[with_stickers]
        ),
    }
    folder = config.evaluation.reports_dir
    try:
        write_atomically(folder / ROBUSTNESS_FILE, (to_json(results, indent=2) + "\n").encode())
        draw_robustness(results, folder / "figures" / "robustness.png")
        draw_corrupted(images[0], folder / "figures" / "corruptions.png")
        draw_stickers(classifier, images, folder / "figures" / "stickers.jpg")
    except OSError as error:
        raise DataError(f"Cannot write the reports to {folder}: {error}.") from error
    weakest = min(accuracy, key=lambda name: accuracy[name][-1])
    logger.info(
        "Accuracy: %.2f%% on %d clean images, %.2f%% across all corruptions, %.1f%% with the strongest %s; see %s",
        100 * results["clean"],
        len(labels),
        100 * results["mean"],
        100 * accuracy[weakest][-1],
        weakest,
        folder,
    )
    return results


def predicted_classes(classifier: Classifier, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Classifies many images in small batches.

    Args:
        classifier: The model.
        images: uint8 [N, S, S, 3], where S is the image size of the model.

    Returns:
        The predicted class of each image, int64 [N].
    """
    batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return np.concatenate([classifier.run(batch).probabilities.argmax(axis=1) for batch in batches])


def _behaviour(
    classifier: Classifier,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    clean: NDArray[np.int64],
    classes: ClassList,
) -> dict[str, float | None]:
    """Tests the invariances of the model (Ribeiro et al., "Beyond Accuracy: CheckList", 2020).

    Returns:
        `invariance`: the share of predicted classes that stay the same with 10 % more or less light. `direction`: of
        the correctly classified images whose mirror image belongs to another class, the share that is classified as
        that class when mirrored; None if there is no such image.
    """
    changed = [np.clip(images * factor, 0, 255).astype(np.uint8) for factor in (0.9, 1.1)]
    same = [predicted_classes(classifier, brighter) == clean for brighter in changed]
    mirrors = np.array(classes.mirrors)
    chosen = (mirrors[labels] >= 0) & (mirrors[labels] != labels) & (clean == labels)
    if not chosen.any():
        logger.info("Mirrored images are not tested, because no image shows a class that has another one as its mirror")
    mirrored = predicted_classes(classifier, images[chosen][:, :, ::-1]) if chosen.any() else np.empty(0, np.int64)
    expected = mirrors[labels[chosen]]
    return {
        "invariance": float(np.mean(same)),
        "direction": float((mirrored == expected).mean()) if chosen.any() else None,
    }


def _worst_classes(labels: NDArray[np.int64], right: NDArray[np.float64], classes: ClassList) -> list[dict[str, Any]]:
    rows = [
        {"class_id": int(c), "name": classes[c].name, "accuracy": float(right[labels == c].mean())}
        for c in np.unique(labels)
    ]
    return sorted(rows, key=lambda row: float(row["accuracy"]))[:5]


if __name__ == "__main__":
    hydra_main(robustness)
