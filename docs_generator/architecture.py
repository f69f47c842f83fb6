"""The architecture as one diagram and one table, from the same list of steps."""

from html import escape
from typing import NamedTuple

from docs_generator.svg import FONT, svg
from src.mlops.io.markdown import table as markdown_table


class Step(NamedTuple):
    """What happens to an image or a model on its way.

    Attributes:
        stage: Part of the project, a key of `STAGES`.
        title: What is done.
        command: The task of `inv` that does it.
        module: Where the code is, below `src/mlops/`.
        result: What is passed on to the next step.
        place: File, folder or address of the result.
    """

    stage: str
    title: str
    command: str
    module: str
    result: str
    place: str


STAGES = {  # title → colour of the boxes
    "Data": "#1b5e9e",
    "Training": "#6a3d9a",
    "Release": "#8a4b08",
    "Service": "#1f6f43",
    "Monitoring": "#9c1f3d",
}
STEPS = (
    Step("Data", "Read and check raw images", "data.prepare", "data/checks.py", "a table: path, class, track",
         "data/raw/"),
    Step("Data", "Split by physical sign, and pack", "data.prepare", "data/packing.py", "pack: uint8 [N, 48, 48, 3]",
         "data/processed/"),
    Step("Training", "Augment, train, calibrate", "train", "training/train.py", "checkpoint",
         "models/latest/best_model.pth"),
    Step("Training", "Evaluate on the test images", "evaluate", "evaluation/evaluate.py",
         "checkpoint; metrics and figures", "reports/latest/"),
    Step("Release", "Export for serving", "model.export", "modelfile/onnx_export.py", "ONNX file, no torch needed",
         "models/latest/best_model.onnx"),
    Step("Release", "Register a version", "registry.register", "registry/register.py", "version v3 and its hashes",
         "Git tag gtsrb@v3.0.0, models/registry/"),
    Step("Release", "Promote it through the gate", "registry.promote", "registry/gate.py", "stage: production",
         "Git tag gtsrb#production#1"),
    Step("Service", "Decode and resize the image", "api", "preprocessing.py", "uint8 [48, 48, 3]",
         "POST /cv_model/"),
    Step("Service", "Queue, batch, classify", "api", "inference/classifier.py", "prediction as JSON",
         "the HTTP response"),
    Step("Monitoring", "Record the prediction", "api", "monitoring/prediction_log.py", "record, sometimes the image",
         "prediction_log/"),
    Step("Monitoring", "Compare with a baseline", "drift.report", "monitoring/drift.py", "findings and alerts",
         "reports/drift/"),
    Step("Monitoring", "Label uncertain images", "labels.export", "monitoring/label_export.py", "new training data",
         "images/ and labels.csv"),
)  # fmt: skip


def table() -> str:
    """Returns a table with one row per step."""
    rows = [
        [
            str(number),
            step.title,
            f"`inv {step.command}`",
            f"`{step.module}`",
            f"{step.result}<br>`{step.place}`",
        ]
        for number, step in enumerate(STEPS, start=1)
    ]
    return markdown_table("no.|step|command|code|result, and where it is", rows)


WIDTH, BOX, GAP, TOP = 440, 58, 34, 12  # px
LEFT, RIGHT = 62, 404  # edges of the boxes; the line back to the first box is on the right


def diagram() -> str:
    """Returns the diagram as SVG: one box per step, from top to bottom, and the way back of labelled images.

    It is narrow, so that a phone shows it without scrolling.
    """
    shapes = [*_stages(), *_way_back()]
    for number, step in enumerate(STEPS, start=1):
        shapes += _box(number, step)
    return svg(WIDTH, TOP + len(STEPS) * (BOX + GAP), f"The way of the data: {way()}", shapes)


def way() -> str:
    """Returns all steps as one text."""
    return "; ".join(f"{number}. {step.title}" for number, step in enumerate(STEPS, start=1)) + "; back to 1."


def _top(number: int) -> int:
    return TOP + (number - 1) * (BOX + GAP)


def _box(number: int, step: Step) -> list[str]:
    top, colour = _top(number), STAGES[step.stage]
    shapes = [
        f"<rect x='{LEFT}' y='{top}' width='{RIGHT - LEFT}' height='{BOX}' rx='6' fill='{colour}'/>",
        _text(LEFT + 12, top + 24, f"{number}. {step.title}", "#fff", 15, "600"),
        _text(LEFT + 12, top + 45, f"inv {step.command}", "#fff", 13),
    ]
    if number < len(STEPS):
        bottom = top + BOX
        shapes.append(
            f"<path d='M{LEFT + 24} {bottom + 1}V{bottom + GAP - 2}' stroke='#444' stroke-width='2'"
            " marker-end='url(#head)'/>"
        )
        shapes.append(_text(LEFT + 38, bottom + 21, step.result, "#222", 13))
    return shapes


def _stages() -> list[str]:
    """Returns the title of each stage, turned, to the left of its boxes."""
    shapes = []
    for stage, colour in STAGES.items():
        numbers = [number for number, step in enumerate(STEPS, start=1) if step.stage == stage]
        top, bottom = _top(numbers[0]), _top(numbers[-1]) + BOX
        middle = (top + bottom) / 2
        shapes.append(f"<rect x='14' y='{top}' width='34' height='{bottom - top}' rx='6' fill='{colour}'/>")
        shapes.append(
            f"<text x='31' y='{middle:.0f}' transform='rotate(-90 31 {middle:.0f})' text-anchor='middle'"
            f" dominant-baseline='central' {FONT} font-size='14' font-weight='600' fill='#fff'>{stage}</text>"
        )
    return shapes


def _way_back() -> list[str]:
    start, end, side = _top(len(STEPS)) + BOX / 2, _top(1) + BOX / 2, WIDTH - 14
    middle = (start + end) / 2
    return [
        f"<path d='M{RIGHT} {start:.0f}H{side}V{end:.0f}H{RIGHT + 3}' fill='none' stroke='#444' stroke-width='2'"
        " stroke-dasharray='5 4' marker-end='url(#head)'/>",
        f"<text x='{side - 9}' y='{middle:.0f}' transform='rotate(-90 {side - 9} {middle:.0f})' text-anchor='middle'"
        f" {FONT} font-size='13' fill='#222'>retrain with labelled images</text>",
    ]


def _text(x: float, y: float, content: str, colour: str, size: int, weight: str = "400") -> str:
    return (
        f"<text x='{x}' y='{y}' {FONT} font-size='{size}' font-weight='{weight}' fill='{colour}'>"
        f"{escape(content)}</text>"
    )
