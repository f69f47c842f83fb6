"""How accuracy falls under weather, blur and noise: `inv robustness`, writes reports/robustness.json."""

import json
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.mlops.config import Config, hydra_main
from src.mlops.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from src.mlops.data.prepare import prepare
from src.mlops.data.signs import SIGNS
from src.mlops.errors import DataError
from src.mlops.evaluate import require_same_size
from src.mlops.files import write_atomically
from src.mlops.inference import Classifier
from src.mlops.progress import ProgressBar
from src.mlops.visualize import draw_corrupted, draw_robustness

logger = logging.getLogger("src.mlops.robustness")
IMAGES = 2000  # drawn from the split: 65 corrupted versions of each are classified
BATCH = 200
REPORT_FILE = "robustness.json"


def robustness(config: Config) -> dict[str, Any]:
    """Measures the model at `config.ckpt_path`, in its exported form, on corrupted images of `evaluation.split`.

    Returns:
        `clean` accuracy, `accuracy` by corruption (five severities each), their `mean`, the `worst_classes` over all,
        and the results of the behaviour tests (`invariance`, `direction`); the content of robustness.json.

    Raises:
        CheckpointError: There is no exported model.
        DataError: There are no such images, or the report cannot be written.
    """
    classifier = Classifier.load(config.ckpt_path.with_suffix(".onnx"))
    pack = prepare(config.data)
    require_same_size(pack, classifier.image_size)
    arrays = pack.load(config.evaluation.split)
    chosen = np.random.default_rng(0).permutation(len(arrays.rows))[:IMAGES]
    images, labels = arrays.images[arrays.rows[chosen]], arrays.labels[chosen]

    clean = _classes(classifier, images)
    accuracy: dict[str, list[float]] = {}
    right = np.zeros(len(labels))
    with ProgressBar("corrupting", len(CORRUPTIONS) * len(SEVERITIES)) as bar:
        for name in CORRUPTIONS:
            accuracy[name] = []
            for severity in SEVERITIES:
                correct = _classes(classifier, corrupt(images, name, severity)) == labels
                right += correct
                accuracy[name].append(float(correct.mean()))
                bar.show(len(SEVERITIES) * len(accuracy) - len(SEVERITIES) + severity, name)
    results: dict[str, Any] = {
        "split": config.evaluation.split,
        "images": len(labels),
        "model_version": classifier.version,
        "clean": float((clean == labels).mean()),
        "mean": float(np.mean(list(accuracy.values()))),
        "accuracy": accuracy,
        "worst_classes": _worst_classes(labels, right / (len(CORRUPTIONS) * len(SEVERITIES))),
        **_behaviour(classifier, images, labels, clean),
    }
    folder = config.evaluation.reports_dir
    try:
        write_atomically(folder / REPORT_FILE, (json.dumps(results, indent=2) + "\n").encode())
        draw_robustness(results, folder / "figures" / "robustness.png")
        draw_corrupted(images[0], folder / "figures" / "corruptions.png")
    except OSError as error:
        raise DataError(f"expected to write reports to {folder}, found: {error}.") from error
    weakest = min(accuracy, key=lambda name: accuracy[name][-1])
    logger.info(
        "accuracy %.2f %% on %d clean images, %.2f %% over all corruptions, %.1f %% under the strongest %s; see %s",
        100 * results["clean"],
        len(labels),
        100 * results["mean"],
        100 * accuracy[weakest][-1],
        weakest,
        folder,
    )
    return results


def _classes(classifier: Classifier, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return np.concatenate([classifier.run(batch).probabilities.argmax(axis=1) for batch in batches])


def _behaviour(
    classifier: Classifier, images: NDArray[np.uint8], labels: NDArray[np.int64], clean: NDArray[np.int64]
) -> dict[str, float | None]:
    """Tests what must hold whatever the picture (Ribeiro et al., "Beyond Accuracy: CheckList", 2020).

    Returns:
        `invariance`, the share of answers that ten percent more or less light leaves as they are, and `direction`, the
        share of rightly answered signs that mirror into another one that are answered with that one when mirrored;
        None where there is no such sign.
    """
    changed = [np.clip(images * factor, 0, 255).astype(np.uint8) for factor in (0.9, 1.1)]
    same = [_classes(classifier, brighter) == clean for brighter in changed]
    mirrors = np.array([-1 if sign.mirror is None else sign.mirror for sign in SIGNS])
    chosen = (mirrors[labels] >= 0) & (mirrors[labels] != labels) & (clean == labels)
    mirrored = _classes(classifier, images[chosen][:, :, ::-1]) if chosen.any() else np.empty(0, np.int64)
    expected = mirrors[labels[chosen]]
    return {
        "invariance": float(np.mean(same)),
        "direction": float((mirrored == expected).mean()) if chosen.any() else None,
    }


def _worst_classes(labels: NDArray[np.int64], right: NDArray[np.float64]) -> list[dict[str, Any]]:
    rows = [
        {"class_id": int(c), "name": SIGNS[c].name, "accuracy": float(right[labels == c].mean())}
        for c in np.unique(labels)
    ]
    return sorted(rows, key=lambda row: float(row["accuracy"]))[:5]


if __name__ == "__main__":
    hydra_main(robustness)
