"""Checks whether a model is good enough to be promoted, on the same images as the model in production.

A model that was trained with images that the service collected (`data.collected`) must also be better on those of them
that no training has seen. Otherwise, a new training has not cured what it was started for.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table
from scipy.stats import binomtest

from src.mlops.config import Config, GateConfig
from src.mlops.data.additional import prepare_collected
from src.mlops.data.classes import ClassList
from src.mlops.data.packing import Pack, SplitArrays
from src.mlops.data.prepare import prepare
from src.mlops.data.sketch import FEW, overlap, sketch_of_training
from src.mlops.evaluation.metrics import expected_calibration_error, per_class_metrics
from src.mlops.inference.classifier import Classifier
from src.mlops.io.git import UNCOMMITTED
from src.mlops.modelfile.metadata import TOLERANCE
from src.mlops.modelfile.store import FILES, SERVED

BATCH = 64
_BETTER = "better than production on collected images"
TIMED = 50  # timed runs with one image, after the same number of warm-up runs


@dataclass(frozen=True)
class Check:
    """The result of one check of a model.

    Attributes:
        name: Name of the check.
        found: The measured value.
        limit: The allowed values.
        passed: Whether the measured value is allowed.
    """

    name: str
    found: str
    limit: str
    passed: bool


class _Answers(NamedTuple):
    probabilities: NDArray[np.float64]  # [N, C]
    labels: NDArray[np.int64]  # [N]

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(self.probabilities.argmax(axis=1) == self.labels)


def run_gate(
    config: Config, candidate: Path, production: Path | None, robustness: dict[str, Any] | None
) -> list[Check]:
    """Checks a model against every limit of `config.gate`.

    Args:
        config: `data` and `evaluation.split` select the images, `gate` holds the limits.
        candidate: Folder of the model's files.
        production: Folder of the production model's files, or None if there is no other model in production.
        robustness: The robustness report that was registered with the model, or None if there is none.

    Returns:
        All checks, both passed and failed.

    Raises:
        DataError: The split has no images, or the images do not have the size and classes of the model.
        CheckpointError: A model file cannot be used.
    """
    limits = config.gate
    model = Classifier.load(candidate / SERVED)
    pack = prepare(config.data)
    pack.require_fit(model.image_size, model.info.classes)
    collected = prepare_collected(config.data, pack, model.info.classes)
    arrays = pack.load(config.evaluation.split)
    answers = _answer(model, arrays)
    checks = [
        _unseen(model, pack, arrays),
        _committed(model),
        _parity(Classifier.load(candidate / FILES[1]), answers, arrays, limits),
        _at_most("expected calibration error", expected_calibration_error(*answers), limits.max_calibration_error),
        _class_floor(answers, model.info.classes, limits),
        _robustness(robustness, limits),
        _at_most("median time of one image, ms", _latency(model, arrays), limits.max_latency_ms),
        _at_most("size of the ONNX file, MB", (candidate / SERVED).stat().st_size / 1e6, limits.max_size_mb),
    ]
    if production:
        rival = Classifier.load(production / SERVED)
        checks.insert(0, _same_classes(model, rival))
        if checks[0].passed:  # otherwise their answers cannot be compared
            pack.require_fit(rival.image_size, rival.info.classes)
            checks.insert(0, not_worse(answers.right, _answer(rival, arrays).right, limits.significance))
            if collected:
                new = collected.load("test")
                right, other = (_answer(classifier, new).right for classifier in (model, rival))
                checks.insert(1, better(right, other, limits.significance))
                checks.append(_collected_unseen(model, pack, new))
            elif "collected_fingerprint" in model.info.provenance:
                found = "not given; set data.collected to the folder or archive of the training"
                checks.insert(1, Check(_BETTER, found, f"p < {limits.significance:g}", passed=False))
    return checks


def not_worse(candidate: NDArray[np.bool_], production: NDArray[np.bool_], significance: float) -> Check:
    """Checks that a model does not make significantly more mistakes than another one.

    This is McNemar's exact test ("Note on the sampling error of the difference between correlated proportions", 1947).
    It uses the images that only one of the two models classifies correctly. If both models are equally good, each of
    these images is equally likely to be correct for either model.

    Args:
        candidate: For each image, whether the model is correct, bool [N].
        production: The same for the other model on the same images, bool [N].
        significance: Probability that a model that is equally good fails the check, above 0 and below 1.

    Returns:
        The check, with the numbers of mistakes and the p-value as the measured value.
    """
    p_value = _p_value(candidate, production)
    found = _mistakes(candidate, production, p_value)
    return Check("not worse than production", found, f"p >= {significance:g}", p_value >= significance)


def better(candidate: NDArray[np.bool_], production: NDArray[np.bool_], significance: float) -> Check:
    """Checks that a model makes significantly fewer mistakes on collected images, with the same test as `not_worse`.

    Args:
        candidate: For each image, whether the model is correct, bool [N].
        production: The same for the other model on the same images, bool [N].
        significance: Probability that a model that is equally good passes the check, above 0 and below 1.
    """
    p_value = _p_value(production, candidate)
    found = _mistakes(candidate, production, p_value)
    return Check(_BETTER, found, f"p < {significance:g}", p_value < significance)


def _p_value(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Returns how likely the second model is ahead by so much if both are equally good."""
    ahead, behind = int((second & ~first).sum()), int((first & ~second).sum())
    return float(binomtest(ahead, ahead + behind, 0.5, alternative="greater").pvalue) if ahead + behind else 1.0


def _mistakes(candidate: NDArray[np.bool_], production: NDArray[np.bool_], p_value: float) -> str:
    lost, won = int((production & ~candidate).sum()), int((candidate & ~production).sum())
    return (
        f"{(~candidate).sum()} of {len(candidate)} misclassified, production {(~production).sum()}; "
        f"{lost} right only in production, {won} only in the candidate, p = {p_value:.3g}"
    )


def show(checks: Sequence[Check]) -> Table:
    """Returns the checks as a table."""
    table = Table("check", "measured", "limit", "result")
    for check in checks:
        verdict = "[green]passed[/green]" if check.passed else "[red]failed[/red]"
        table.add_row(check.name, escape(check.found), check.limit, verdict)
    return table


def _same_classes(model: Classifier, rival: Classifier) -> Check:
    difference = model.info.classes.difference(rival.info.classes)
    found = f"{difference}; a service refuses it, see MLOPS_ALLOW_OTHER_CLASSES" if difference else "the same"
    return Check("class list", found, "that of production", difference is None)


def _unseen(model: Classifier, pack: Pack, arrays: SplitArrays) -> Check:
    known = sketch_of_training(model.info.provenance, pack)
    common = overlap(known or "", arrays.hashes)
    if known is None:
        found = "not known: an earlier release trained the model, on other data or other splits"
    elif not common.compared:
        found = f"not known: {len(arrays.rows)} images are too few"
    else:
        found = f"{common.seen} of {common.compared} compared"
        found += "; use other images, such as evaluation.split=test" if common.is_large else ""
    passed = not found.startswith("not known") and not common.is_large
    return Check("compared images that the model was trained on", found, f"<= {FEW:.0%}", passed)


def _collected_unseen(model: Classifier, pack: Pack, arrays: SplitArrays) -> Check:
    """Checks the same for collected images, of which there can be too few to compare any."""
    common = overlap(sketch_of_training(model.info.provenance, pack) or "", arrays.hashes)
    found = f"{common.seen} of {common.compared} compared"
    return Check("collected test images that it was trained on", found, f"<= {FEW:.0%}", not common.is_large)


def _answer(model: Classifier, arrays: SplitArrays) -> _Answers:
    rows = arrays.rows
    batches = (arrays.images[rows[start : start + BATCH]] for start in range(0, len(rows), BATCH))
    probabilities = np.concatenate([model.run(batch).probabilities for batch in batches])
    return _Answers(probabilities.astype(np.float64), arrays.labels)


def _committed(model: Classifier) -> Check:
    commit = model.info.provenance.get("git_commit") or "none"
    clean = commit != "none" and not commit.endswith(UNCOMMITTED)
    return Check(
        "commit of the training code",
        commit[:8] + (UNCOMMITTED if UNCOMMITTED in commit else ""),
        "no uncommitted changes",
        clean,
    )


def _parity(checkpoint: Classifier, answers: _Answers, arrays: SplitArrays, limits: GateConfig) -> Check:
    count = limits.parity_images
    some = SplitArrays(arrays.images, arrays.rows[:count], arrays.labels[:count], [], [])
    expected = _answer(checkpoint, some).probabilities
    gap = float(np.abs(expected - answers.probabilities[: len(expected)]).max())
    return Check(
        f"ONNX compared with checkpoint, {len(expected)} images",
        f"largest difference {gap:.1e}",
        f"<= {TOLERANCE:g}",
        gap <= TOLERANCE,
    )


def _class_floor(answers: _Answers, classes: ClassList, limits: GateConfig) -> Check:
    rows = per_class_metrics(answers.labels, answers.probabilities.argmax(axis=1), classes)
    worst = min((row for row in rows if row["images"]), key=lambda row: float(row["f1"]))
    found = f"{worst['f1']:.3f} ({worst['name']})"
    return Check("F1 of the weakest class", found, f">= {limits.min_class_f1:g}", worst["f1"] >= limits.min_class_f1)


def _robustness(report: dict[str, Any] | None, limits: GateConfig) -> Check:
    limit = f">= {limits.min_robustness:g}"
    name = "accuracy under corruptions"
    if report is None:
        return Check(name, "not measured; run `inv model.robustness` before `inv registry.register`", limit, False)
    return Check(name, f"{report['mean']:.4f}", limit, report["mean"] >= limits.min_robustness)


def _latency(model: Classifier, arrays: SplitArrays) -> float:
    image = arrays.images[arrays.rows[:1]]
    times = []
    for _ in range(2 * TIMED):
        started = time.perf_counter()
        model.run(image)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times[TIMED:]))


def _at_most(name: str, found: float, limit: float) -> Check:
    return Check(name, f"{found:.4g}", f"<= {limit:g}", found <= limit)
