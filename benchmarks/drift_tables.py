"""The tables about drift detection: what is found within how many images, false alarms, other libraries, accuracy."""

from statistics import mean

from benchmarks.environment import read_results
from benchmarks.markdown import markdown_table, where
from benchmarks.shifts import CAMERAS, DISTANCES, MIXES, SEVERITIES, SHARES, STRENGTHS
from src.mlops.monitoring.detector import HORIZONS

_Rows = list[dict[str, str]]
_LATER = ("blur", "JPEG")  # of which severity 1 may need 1,000 images
_ENOUGH = 0.95


def drift() -> str:
    """Returns a row per group of shifts with the lowest probability among them."""
    rows = _rows("drift")
    bound = {row["shift"]: row for row in _rows("drift_mix_bound") if row["baseline"] != "known"}

    def found(what: str, strength: float, images: int, names: list[str], note: str = "") -> list[str]:
        own = [row for row in rows if row["shift"] in names and float(row["strength"]) == strength]
        own = [row for row in own if int(row["images"]) == images]
        if not own:
            return []
        worst = min(own, key=lambda row: float(row["found"]))
        enough = sum(float(row["found"]) >= _ENOUGH for row in own)
        which = f"{enough} of {len(own)}" if len(own) > 1 else ("yes" if enough else "no")
        name = f" ({worst['shift']})" if len(own) > 1 else ""
        return [what, f"{images:,}", which, f"{100 * float(worst['found']):.1f} %{name}{note}"]

    weather = [name for name in dict.fromkeys(row["shift"] for row in rows) if name not in CAMERAS]
    weather = [name for name in weather if not name.startswith(("mix", "unknown"))]
    lines = [found(f"corruptions of severity {level}", level, 100, weather) for level in SEVERITIES[:0:-1]]
    lines.append(found("corruptions of severity 1", 1, 300, [name for name in weather if name not in _LATER]))
    lines += [found(f"{name} of severity 1", 1, 1000, [name]) for name in _LATER]
    lines += [found(f"new camera, strength {level}", level, 300, list(CAMERAS)) for level in STRENGTHS[::-1]]
    for distance in DISTANCES[::-1]:
        for kind in MIXES:
            best = bound.get(f"mix: {kind}", {"strength": "0"})
            is_known = float(best["strength"]) == distance and best["budget"] == "all"
            note = f"; the best test: {100 * float(best['power']):.1f} %" if is_known else ""
            lines.append(found(f"mix at distance {distance:g}: {kind}", distance, 300, [f"mix: {kind}"], note))
    for share in SHARES[::-1]:
        for kind in ("drawn", "left-out classes"):
            lines.append(found(f"{share:.0%} unknown: {kind}", share, 300, [f"unknown: {kind}"]))
    head = "shift|images|found with 95 %|lowest probability"
    return markdown_table(head, [line for line in lines if line]) + where(rows)


def drift_false_alarms() -> str:
    """Returns a row per kind of clean traffic."""
    lines = [
        [
            row["traffic"],
            row["split"],
            f"{int(row['looks']):,}",
            f"{100 * float(row['looks_with_alarm']):.3f} %",
            f"{row['runs']} of {int(row['looks_per_run']):,} looks",
            f"{100 * float(row['runs_with_alarm']):.1f} %",
        ]
        for row in read_results("drift_false_alarms")
        if row["finding"] == "any"
    ]
    return markdown_table("clean traffic|images|looks|with an alarm|runs|with an alarm", lines)


def drift_accuracy() -> str:
    """Returns a row per method with its mean absolute error."""
    rows = _rows("drift_accuracy")
    groups = {
        "corruptions": [row for row in rows if row["shift"] not in (*CAMERAS, "clean")],
        "new cameras": [row for row in rows if row["shift"] in CAMERAS],
        "clean": [row for row in rows if row["shift"] == "clean"],
    }
    methods = {"estimated": "this project", "atc": "ATC (Garg et al., 2022)", "mean_confidence": "mean confidence"}
    lines = []
    for key, name in methods.items():
        errors = {group: [100 * float(row[f"error_{key}"]) for row in own] for group, own in groups.items()}
        everything = [error for group in errors.values() for error in group]
        if everything:
            cells = [f"{mean(values):.2f}" for values in (*errors.values(), everything)]
            lines.append([name, *cells, f"{max(everything):.1f}"])
    return markdown_table("mean absolute error in points|corruptions|new cameras|clean|all|largest error", lines)


def drift_contenders() -> str:
    """Returns a row per detector: shifts found by 95 % within n images, and false alarms."""
    rows = _rows("drift_contenders")
    lines = []
    for detector, budget in dict.fromkeys((row["detector"], row["budget"]) for row in rows):
        own = [row for row in rows if (row["detector"], row["budget"]) == (detector, budget)]
        shifts = [row for row in own if not row["shift"].startswith("clean")]
        cells = []
        for images in HORIZONS:
            at = [float(row["found"]) >= _ENOUGH for row in shifts if int(row["images"]) == images]
            cells.append(f"{sum(at)} of {len(at)}" if at else "")
        runs = [row for row in own if row["shift"] == "clean run"]
        looks = " / ".join(f"{100 * float(row['found']):.2f} %" for row in runs)
        alarmed = " / ".join(f"{100 * float(row['runs_with_alarm']):.0f} %" for row in runs)
        clean = [row for row in own if row["shift"] == "clean"]
        looks = looks or " / ".join(f"{100 * float(row['found']):.0f} %" for row in clean)
        lines.append([detector, budget, *cells, looks, alarmed or "not run"])
    sizes = "|".join(f"found within {images:,}" for images in HORIZONS)
    return markdown_table(f"detector|false alarms allowed|{sizes}|clean windows with an alarm|clean runs", lines)


def _rows(name: str) -> _Rows:
    """Returns the rows of the test images, or of the validation images if there are none."""
    rows = read_results(name)
    return [row for row in rows if row["split"] == "test"] or rows
