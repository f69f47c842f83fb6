"""Writes a model card and a data card from measured results: `inv model.card`.

The cards follow Mitchell et al., "Model Cards for Model Reporting", 2019, and Gebru et al., "Datasheets for Datasets",
2021. For a result that was not measured, the card names the command that measures it.
"""

import logging
from pathlib import Path
from typing import Any

from src.mlops.cli import hydra_main
from src.mlops.config import Config
from src.mlops.data.prepare import REPORT, prepare
from src.mlops.data.report import summarise
from src.mlops.data.statements import Statements, statements_of
from src.mlops.errors import DataError
from src.mlops.evaluation.measurements import FURTHER, read_json, read_measurements
from src.mlops.evaluation.stickers import DIAMETER, STICKERS
from src.mlops.inference.classifier import Classifier
from src.mlops.io.files import to_json, write_atomically
from src.mlops.io.markdown import cell, plain
from src.mlops.modelfile.calibration import UNLIMITED, Calibration
from src.mlops.modelfile.metadata import ModelInfo
from src.mlops.project import load_project

logger = logging.getLogger("src.mlops.evaluation.model_card")
MODEL_CARD = "model_card.md"
DATA_CARD = "data_card.md"


def write_cards(config: Config) -> tuple[Path, Path]:
    """Writes model_card.md and data_card.md to the reports folder.

    Returns:
        The paths of the two files.

    Raises:
        CheckpointError: There is no exported model.
        ConfigError: pyproject.toml has no valid names of the project.
        DataError: The results of the evaluation are missing, cannot be read or belong to another model, or the cards
            cannot be written.
    """
    folder = config.evaluation.reports_dir
    classifier = Classifier.load(config.ckpt_path.with_suffix(".onnx"))
    metrics, robustness = read_measurements(config, classifier)
    pack = prepare(config.data)
    report = read_json(pack.directory / REPORT, "inv data.prepare")
    about = statements_of(pack.classes, synthetic=config.data.source == "synthetic")
    try:
        write_atomically(folder / MODEL_CARD, model_card(classifier, metrics, robustness).encode())
        write_atomically(folder / DATA_CARD, data_card(report, pack.fingerprint, about).encode())
    except OSError as error:
        raise DataError(f"Cannot write the cards to {folder}: {error}.") from error
    logger.info("Wrote %s and %s", folder / MODEL_CARD, folder / DATA_CARD)
    return folder / MODEL_CARD, folder / DATA_CARD


def model_card(classifier: Classifier, metrics: dict[str, Any], robustness: dict[str, Any] | None) -> str:
    """Returns the model card as Markdown.

    Args:
        classifier: The exported model.
        metrics: Content of metrics.json.
        robustness: Content of robustness.json, or None if it was not measured for this model.
    """
    info = classifier.info
    calibration, origin, training = info.calibration, info.provenance, info.config["training"]
    about = statements_of(info.classes, drawn=info.drawn_classes)
    shown = "drawings" if metrics.get("on_drawings") else "images"
    return f"""# Model card: {plain(load_project().title)}

| | |
|---|---|
| version | {classifier.version} |
| network | `{to_json(info.config["model"])}`, images of {classifier.image_size} x {classifier.image_size} px |
| trained | {origin["created"]}, commit {origin["git_commit"]}, seed {origin["seed"]}, \
on {" and ".join(origin["trained_on"])} |
| data fingerprint | {origin["data_fingerprint"]} |
| versions | {", ".join(f"{name} {version}" for name, version in origin["versions"].items())} |
| schedule | {training["epochs"]} epochs, batches of {training["batch_size"]}, {training["precision"]}\
{_additions(training)} |

## Intended use

{about.intended_use}

## Accuracy on {metrics["images"]:,} {shown} of the split `{metrics["split"]}`

{_metrics(metrics, calibration)}

![Confusion matrix](figures/confusion_matrix.png)
![Reliability](figures/reliability.png)

## Per class, worst first

{_worst_first(metrics["classes"])}
{_further(metrics, info)}
## Robustness

{_robustness(robustness)}
{_stickers(robustness)}
## Calibration

Temperature {calibration.temperature:.3f}, RAPS threshold {calibration.set_threshold:.4f}. {_unknown(calibration)} All
values were fitted on validation images. {_coverage(calibration)}

## Limits

{about.limits}- The results are for images from the same source as the training images. Results with another camera can
  differ.
- Unknown classes and other out-of-distribution images are detected in this way only.
  `docs/explanation/trust.md` shows how reliable this is for traffic signs and several kinds of image.
"""


def data_card(report: dict[str, Any], fingerprint: str, about: Statements) -> str:
    """Returns the data card as Markdown.

    Args:
        report: Content of report.json of the prepared data.
        fingerprint: Fingerprint of the prepared data.
        about: Statements about the data.
    """
    return f"""# Data card

| | |
|---|---|
| source | {cell(about.data_source)} |
| layout | {report["layout"]} |
| fingerprint | {fingerprint} |
| splits | by track: {report["tracks"]["train"]:,} tracks for training, {report["tracks"]["val"]:,} for validation, \
{report["tracks"].get("reference", 0):,} as the reference of drift detection |
| personal data | {cell(about.personal_data)} |
| licence | {cell(about.licence)} |

{summarise(report).replace("# Data report", "## Results of the data checks")}"""


def _metrics(measured: dict[str, Any], calibration: Calibration) -> str:
    return f"""| metric | value |
|---|---|
| accuracy | {100 * measured["Accuracy"]:.2f} %, {measured["errors"]} misclassified |
| macro precision, recall, F1 | {measured["Precision"]:.4f}, {measured["Recall"]:.4f}, {measured["F1"]:.4f} |
| expected calibration error (ECE), 15 bins | {measured["expected_calibration_error"]:.4f} |
| prediction sets | {100 * measured["prediction_set_coverage"]:.2f} % contain the true class (target: \
{100 * calibration.coverage:g} %, attained by calibration: {100 * calibration.attained_coverage:.4g} %), \
{measured["prediction_set_size"]:.2f} classes on average |
| false-positive rate: images of known classes flagged as unknown | {100 * measured["called_unknown"]:.2f} % |"""


def _worst_first(classes: list[dict[str, Any]]) -> str:
    rows = [row | {"name": plain(row["name"])} for row in sorted(classes, key=lambda row: float(row["f1"]))]
    return f"""| class | name | images | precision | recall | F1 |
|---:|---|---:|---:|---:|---:|
{_lines("| {class_id} | {name} | {images} | {precision:.3f} | {recall:.3f} | {f1:.3f} |", rows)}"""


def _further(metrics: dict[str, Any], info: ModelInfo) -> str:
    """Returns a section about signs that the data does not have; empty if there are none."""
    measured = metrics.get(FURTHER)
    if measured is None:
        return ""
    return f"""
## Signs that the data does not have

The model was trained on drawings of {len(measured["classes"])} signs that the data does not have. The table is for \
{measured["images"]:,} drawings of other simulated signs, not for photographs. **How well it classifies photographs of \
these signs is unproven.**

{_metrics(measured, info.calibration)}

![Confusion matrix](figures/{FURTHER}/confusion_matrix.png)

{_worst_first(measured["classes"])}
"""


def _unknown(calibration: Calibration) -> str:
    if calibration.unknown_threshold < UNLIMITED:
        return f"Images with an unknown score above {calibration.unknown_threshold:.3f} are flagged as unknown."
    if calibration.energy_threshold < UNLIMITED:  # an earlier release
        return f"Images with an energy above {calibration.energy_threshold:.3f} are flagged as unknown."
    return "No image is flagged as unknown."


def _coverage(calibration: Calibration) -> str:
    requested, attained = 100 * calibration.coverage, 100 * calibration.attained_coverage
    if attained >= requested:
        return f"There were enough of them for the requested coverage of prediction sets, {requested:g} %."
    return (
        f"There were too few of them for the requested coverage of prediction sets, {requested:g} %. The sets attain "
        f"{attained:.4g} %, the highest coverage that the number of images allows."
    )


def _robustness(results: dict[str, Any] | None) -> str:
    if results is None:
        return "Not measured for this model. Measure it with `inv model.robustness`."
    rows = [{"name": name, "mild": 100 * row[0], "strong": 100 * row[-1]} for name, row in results["accuracy"].items()]
    mirrored = ""
    if results["direction"] is not None:
        share = 100 * results["direction"]
        mirrored = (
            f"When the mirror image of an image belongs to another class, {share:.2f} % are classified as that class. "
        )
    weakest = ", ".join(f"{plain(row['name'])} ({100 * row['accuracy']:.1f} %)" for row in results["worst_classes"])
    return f"""On {results["images"]:,} images: {100 * results["clean"]:.2f} % correct without corruption, \
{100 * results["mean"]:.2f} % on average over all corruptions and severities.

| corruption | mildest, % | strongest, % |
|---|---:|---:|
{_lines("| {name} | {mild:.1f} | {strong:.1f} |", rows)}

With 10 % more or less light, the predicted class stays the same for {100 * results["invariance"]:.2f} % of the images.
{mirrored}Weakest classes: {weakest}.

![Accuracy by corruption](figures/robustness.png)"""


def _additions(training: dict[str, Any]) -> str:
    """Returns what the network learned from besides the data. Files of earlier releases lack the newer settings."""
    additions = {
        "drawn": ", with synthetic images in addition to those of the data",
        "outliers": ", with rendered images of unknown things",
        "teachers": ", with the probabilities of other models",
    }
    return "".join(text for key, text in additions.items() if training.get(key))


def _stickers(results: dict[str, Any] | None) -> str:
    """Returns a section about stickers; empty if they were not measured, as by earlier releases."""
    if results is None or "stickers" not in results:
        return ""
    rows = [
        {name: 100 * value if isinstance(value, float) else value for name, value in row.items()}
        for row in results["stickers"]
    ]
    return f"""
## Stickers

On {results["images_with_stickers"]:,} images: {STICKERS} opaque stickers of random shapes and colours cover a share \
of the sign, for which the central disc of {100 * DIAMETER:.0f} % of the image's side is taken. They are placed at \
random, or where the saliency map of the image without stickers is highest. Nothing about them is optimised, so the \
results are no bound for an attack. *Correct* is about the class, whether or not the image is flagged as unknown.

| placement | of the sign covered, % | correct, % | flagged as unknown, % | wrong and not flagged, % |
|---|---:|---:|---:|---:|
{_lines("| {placement} | {share:.0f} | {accuracy:.2f} | {called_unknown:.2f} | {wrong_not_unknown:.2f} |", rows)}

![Signs with stickers](figures/stickers.jpg)
"""


def _lines(template: str, rows: list[dict[str, Any]]) -> str:
    return "\n".join(template.format(**row) for row in rows)


if __name__ == "__main__":
    hydra_main(write_cards)
