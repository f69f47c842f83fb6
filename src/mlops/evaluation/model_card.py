"""Model card and data card from what was measured: `python -m src.mlops.card`, or `inv card`.

In the form of Mitchell et al., "Model Cards for Model Reporting", 2019, and Gebru et al., "Datasheets for Datasets",
2021. A figure that was not measured is named as missing, with the command that measures it.
"""

import json
import logging
from pathlib import Path
from typing import Any

from src.mlops.config import Config, hydra_main
from src.mlops.data.checks import summarise
from src.mlops.data.prepare import REPORT, prepare
from src.mlops.errors import DataError
from src.mlops.evaluate import METRICS_FILE
from src.mlops.files import write_atomically
from src.mlops.inference import Classifier
from src.mlops.model_info import INTENDED_USE
from src.mlops.robustness import REPORT_FILE

logger = logging.getLogger("src.mlops.card")
MODEL_CARD = "model_card.md"
DATA_CARD = "data_card.md"
# Source, collection, personal data and licence of the images.
_GTSRB = (
    'German Traffic Sign Recognition Benchmark, Stallkamp et al., "Man vs. computer", 2012',
    "video of a car on German roads, 2010; about 30 frames show one physical sign (a track)",
    "none is intended; a frame may show a car or a passer-by at its edge",
    "of the benchmark's authors; the images are not part of this repository",
)
_DRAWN = ("drawn by this repository's code", "none: `data/synthetic.py` draws and photographs them", "none", "MIT")


def write_cards(config: Config) -> tuple[Path, Path]:
    """Writes model_card.md and data_card.md into the reports folder.

    Returns:
        The two files.

    Raises:
        CheckpointError: There is no exported model.
        DataError: The model was not evaluated yet, or the evaluation is of another model or cannot be read.
    """
    folder = config.evaluation.reports_dir
    classifier = Classifier.load(config.ckpt_path.with_suffix(".onnx"))
    metrics, robustness = read_measurements(config, classifier)
    pack = prepare(config.data)
    report = _read(pack.directory / REPORT, "inv preprocess-data")
    try:
        write_atomically(folder / MODEL_CARD, model_card(classifier, metrics, robustness).encode())
        write_atomically(
            folder / DATA_CARD, data_card(report, pack.fingerprint, drawn=config.data.source == "synthetic").encode()
        )
    except OSError as error:
        raise DataError(f"expected to write cards to {folder}, found: {error}.") from error
    logger.info("wrote %s and %s", folder / MODEL_CARD, folder / DATA_CARD)
    return folder / MODEL_CARD, folder / DATA_CARD


def read_measurements(config: Config, classifier: Classifier) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Reads what was measured of a model, and makes sure that it was this one.

    Returns:
        The content of metrics.json, and that of robustness.json where it was measured for this model.

    Raises:
        DataError: The model was not evaluated yet, or the evaluation is of another model or cannot be read.
    """
    folder, info = config.evaluation.reports_dir, classifier.info
    metrics = _read(folder / METRICS_FILE, "inv evaluate")
    if (metrics.get("provenance"), metrics.get("calibration")) != (info.provenance, info.calibration.to_dict()):
        raise DataError(
            f"expected {folder / METRICS_FILE} to be of the model at {config.ckpt_path}, found that of another. "
            "Evaluate it: `inv evaluate`."
        )
    robustness = None
    if (folder / REPORT_FILE).is_file():
        robustness = _read(folder / REPORT_FILE, "inv robustness")
        if robustness.get("model_version") != classifier.version:
            logger.warning("robustness was measured for another model: `inv robustness` measures this one")
            robustness = None
    return metrics, robustness


def model_card(classifier: Classifier, metrics: dict[str, Any], robustness: dict[str, Any] | None) -> str:
    """Renders the model card.

    Args:
        classifier: The exported model.
        metrics: Content of metrics.json.
        robustness: Content of robustness.json, or None where it was not measured for this model.
    """
    info = classifier.info
    calibration, origin, training = info.calibration, info.provenance, info.config["training"]
    worst = sorted(metrics["classes"], key=lambda row: float(row["f1"]))
    return f"""# Model card: German traffic signs

| | |
|---|---|
| version | {classifier.version} |
| network | `{json.dumps(info.config["model"])}`, images of {classifier.image_size} x {classifier.image_size} px |
| trained | {origin["created"]}, commit {origin["git_commit"]}, seed {origin["seed"]}, \
on {" and ".join(origin["trained_on"])} |
| data fingerprint | {origin["data_fingerprint"]} |
| versions | {", ".join(f"{name} {version}" for name, version in origin["versions"].items())} |
| schedule | {training["epochs"]} epochs, batches of {training["batch_size"]}, {training["precision"]}\
{", with drawn signs beside the real ones" if training["drawn"] else ""} |

## Intended use

{INTENDED_USE}

## Accuracy on {metrics["images"]:,} images of the split `{metrics["split"]}`

| figure | value |
|---|---|
| accuracy | {100 * metrics["Accuracy"]:.2f} %, {metrics["errors"]} wrong |
| macro precision, recall, F1 | {metrics["Precision"]:.4f}, {metrics["Recall"]:.4f}, {metrics["F1"]:.4f} |
| expected calibration error, 15 bins | {metrics["expected_calibration_error"]:.4f} |
| prediction sets | {100 * metrics["prediction_set_coverage"]:.2f} % hold the true class (asked for: \
{100 * calibration.coverage:g} %), {metrics["prediction_set_size"]:.2f} classes on average |
| real signs called unknown | {100 * metrics["called_unknown"]:.2f} % |

![Confusion matrix](figures/confusion_matrix.png)
![Reliability](figures/reliability.png)

## Per class, worst first

| class | name | images | precision | recall | F1 |
|---:|---|---:|---:|---:|---:|
{_lines("| {class_id} | {name} | {images} | {precision:.3f} | {recall:.3f} | {f1:.3f} |", worst)}

## Robustness

{_robustness(robustness)}

## Calibration

Temperature {calibration.temperature:.3f}; RAPS threshold {calibration.set_threshold:.4f}; pictures with an energy above
{calibration.energy_threshold:.3f} are called unknown. All were fitted on validation images.

## Limits

- Forty-three German signs as they looked about 2010; signs of other countries and newer designs are not among them.
- Day and dusk pictures of one camera; night, snow-covered and graffitied signs are rare in the data.
- Validation and test pictures are of the same source as the training ones; another camera can give other figures.
- Pictures that are no sign are found by their energy alone; `docs/trust.md` says how well, kind by kind.
"""


def data_card(report: dict[str, Any], fingerprint: str, *, drawn: bool = False) -> str:
    """Renders the data card.

    Args:
        report: Content of the prepared data's report.json.
        fingerprint: The prepared data's fingerprint.
        drawn: The signs were drawn by the code.
    """
    source, collection, people, licence = _DRAWN if drawn else _GTSRB
    return f"""# Data card

| | |
|---|---|
| source | {source}; layout {report["layout"]} |
| fingerprint | {fingerprint} |
| collection | {collection} |
| splits | by whole tracks: {report["tracks"]["train"]:,} for training, {report["tracks"]["val"]:,} for validation |
| personal data | {people} |
| licence | {licence} |

{summarise(report).replace("# Data report", "## What the checks found")}"""


def _robustness(results: dict[str, Any] | None) -> str:
    if results is None:
        return "Not measured for this model: `inv robustness`."
    rows = [{"name": name, "mild": 100 * row[0], "strong": 100 * row[-1]} for name, row in results["accuracy"].items()]
    mirrored = ""
    if results["direction"] is not None:
        share = 100 * results["direction"]
        mirrored = f"Of the signs that mirror into another one, {share:.2f} % are answered so when mirrored. "
    weakest = ", ".join(f"{row['name']} ({100 * row['accuracy']:.1f} %)" for row in results["worst_classes"])
    return f"""On {results["images"]:,} images: {100 * results["clean"]:.2f} % clean, {100 * results["mean"]:.2f} % on \
average over all corruptions and severities.

| corruption | mildest, % | strongest, % |
|---|---:|---:|
{_lines("| {name} | {mild:.1f} | {strong:.1f} |", rows)}

Ten percent more or less light keeps the class of {100 * results["invariance"]:.2f} % of the pictures. {mirrored}\
Weakest classes: {weakest}.

![Accuracy by corruption](figures/robustness.png)"""


def _lines(template: str, rows: list[dict[str, Any]]) -> str:
    return "\n".join(template.format(**row) for row in rows)


def _read(path: Path, command: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"expected measured results at {path}, found none. Measure them: `{command}`.") from error
    return content


if __name__ == "__main__":
    hydra_main(write_cards)
