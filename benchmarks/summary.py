"""The table of results in README: a few lines, each with its range over trials and the file that it comes from."""

from collections.abc import Callable

from benchmarks.environment import read_results
from benchmarks.figures import grouped, interval, seeds, spread
from benchmarks.markdown import markdown_table
from src.mlops.evaluation.corruptions import CORRUPTIONS

RECORD, TINY = (f"experiment={name} training.precision=bf16" for name in ("record", "tiny"))
SEEDS = 3  # an accuracy of fewer seeds is not shown
SEVERITIES, IMAGES = ("3", "1"), "100"  # of the corruptions in the line about drift
_Rows = list[dict[str, str]]


def summary() -> str:
    """Returns the table: what was measured, the result, the file of the results, and where it is explained."""
    lines: list[list[str]] = []
    used: _Rows = []
    for file, explained, line in LINES:
        rows = read_results(file)
        if cells := line(rows) if rows else []:
            result = f"[{file}.csv](benchmarks/results/{file}.csv)"
            lines.append([*cells, f"{result}, [how](docs/{explained})"])
            used += rows
    return markdown_table("measurement|result|source", lines) + _environment(used)


def _default_accuracy(rows: _Rows) -> list[str]:
    return _accuracy(rows, "", "default settings")


def _record_accuracy(rows: _Rows) -> list[str]:
    return _accuracy(rows, RECORD, "`experiment=record` in bf16")


def _tiny_accuracy(rows: _Rows) -> list[str]:
    return _accuracy(rows, TINY, "`experiment=tiny` in bf16")


def _accuracy(rows: _Rows, overrides: str, settings: str) -> list[str]:
    own = _where(rows, overrides=overrides)
    if len(own) < SEEDS:
        return []
    figure = _share([float(row["test_accuracy"]) for row in own])
    what = f"test accuracy, {settings}, {seeds(own)}"
    return [what, f"**{figure}**; 95 % interval for {int(own[0]['test_images']):,} images: {interval(own)}"]


def _synthetic_only(rows: _Rows) -> list[str]:
    return _drawn(rows, "synthetic_only", "trained on drawn signs only")


def _quickstart(rows: _Rows) -> list[str]:
    return _drawn(rows, "quickstart", "model of `inv quickstart`")


def _drawn(rows: _Rows, experiment: str, settings: str) -> list[str]:
    own = _where(rows, experiment=experiment)
    figure = _share([float(row["test_accuracy"]) for row in own])
    what = f"accuracy on real test images, {settings}, {seeds(own)}"
    return [what, f"**{figure}**; 95 % interval: {interval(own)}"]


def _calibration(rows: _Rows) -> list[str]:
    own = _where(rows, overrides="")
    errors = spread([float(row["test_calibration_error"]) for row in own], digits=4)
    return [f"calibration error (ECE), default settings, {seeds(own)}", errors]


def _latency(rows: _Rows) -> list[str]:
    (row,) = _where(rows, form="ONNX Runtime", threads_used="1")
    times = f"**{float(row['p50_ms']):.2f} ms**, 99 % within {float(row['p99_ms']):.2f} ms"
    size = f"{float(row['megabytes']):.1f} MB file, {row['resident_mb']} MB of memory"
    return ["inference of one image, one thread, median", f"{times}; {size}"]


def _throughput(rows: _Rows) -> list[str]:
    own = [row for row in rows if row["model"].endswith("24") and row["concurrency"] == "32"]
    names = {"this service, 2 workers": "this service", "LitServe": "LitServe", "BentoML": "BentoML"}
    rates = [
        f"{name} **{float(row['images_per_second']):.0f}** ({float(row['slowest']):.0f})"
        for way, name in names.items()
        for row in _where(own, way=way)
    ]
    return [f"images/s over HTTP, median (slowest) of {own[0]['trials']} runs", ", ".join(rates)]


def _prediction_log(rows: _Rows) -> list[str]:
    lost = sum(int(row["records_lost"]) + int(row["records_missing"]) for row in rows)
    written = sum(int(row["records_written"]) for row in rows)
    shares = [
        f"{100 * float(row['rate_ratio']):.1f} % ({100 * float(row['rate_ratio_lowest']):.1f}) at {row['load']} load"
        for row in rows
    ]
    what = f"throughput kept with the prediction log, median (lowest) of {rows[0]['pairs']} pairs of runs"
    return [what, f"{', '.join(shares)}; {lost} of {written:,} records lost"]


def _drift(rows: _Rows) -> list[str]:
    own = [row for row in _where(rows, split="test", images=IMAGES) if row["shift"] in CORRUPTIONS]
    found = {
        severity: _share([float(row["found"]) for row in _where(own, strength=severity)], digits=0)
        for severity in SEVERITIES
    }
    what = f"{len({row['shift'] for row in own})} kinds of corruption, found by drift detection within {IMAGES} images"
    return [what, ", ".join(f"{share} at severity {severity}" for severity, share in found.items())]


def _false_alarms(rows: _Rows) -> list[str]:
    same, *others = _where(rows, split="test", finding="any")
    alarms = [f"{float(row['runs_with_alarm']) * int(row['runs']):.0f} of {row['runs']}" for row in (same, *others)]
    note = f"; {alarms[1]} with a baseline of other images" if others else ""
    return [f"runs of {int(same['looks_per_run']):,} drift reports with a false alarm", f"{alarms[0]}{note}"]


def _label_errors(rows: _Rows) -> list[str]:
    own = [group[0] for group in grouped(_where(rows, unit="image"), "seed").values()]
    found = _share([int(row["listed_wrong"]) / int(row["wrong"]) for row in own], digits=1)
    others = spread([int(row["listed"]) - int(row["listed_wrong"]) for row in own], digits=0)
    what = f"{own[0]['wrong']} wrong labels among {int(own[0]['images']):,}, listed by `inv data.label-errors`"
    return [what, f"{found} of them, and {others} right ones; {seeds(own)}"]


def _left_out(rows: _Rows) -> list[str]:
    # Those of the settings that were measured last.
    own = list(grouped(_where(rows, score="unknown score"), "overrides", "trainings").values())[-1]
    area = spread([float(row["auroc"]) for row in own], digits=3)
    flagged = _share([float(row["called_unknown"]) for row in own], digits=0)
    known = _share([float(row["known_called_unknown"]) for row in own], digits=1)
    what = f"signs of a class left out of training, reported as unknown; {len(own)} classes"
    return [what, f"{flagged}, and {known} of known signs; AUROC {area}"]


LINES: tuple[tuple[str, str, Callable[[_Rows], list[str]]], ...] = (
    ("accuracy", "how-to/train.md#configurations", _default_accuracy),
    ("accuracy", "explanation/trust.md#calibration", _calibration),
    ("accuracy", "how-to/train.md#configurations", _record_accuracy),
    ("accuracy", "how-to/train.md#configurations", _tiny_accuracy),
    ("synthetic_only", "explanation/experiments.md#drawn-signs-only", _synthetic_only),
    ("synthetic_only", "explanation/experiments.md#drawn-signs-only", _quickstart),
    ("variants", "explanation/performance.md#variants-and-runtimes", _latency),
    ("serving", "explanation/performance.md#serving", _throughput),
    ("prediction_log", "explanation/performance.md#prediction-log-and-drift-job", _prediction_log),
    ("drift", "explanation/drift.md#how-well-it-works", _drift),
    ("drift_false_alarms", "explanation/drift.md#false-alarms", _false_alarms),
    ("label_errors", "how-to/find-wrong-labels.md", _label_errors),
    ("left_out", "explanation/trust.md#left-out-classes", _left_out),
)


def _where(rows: _Rows, **values: str) -> _Rows:
    return [row for row in rows if all(row[column] == value for column, value in values.items())]


def _share(values: list[float], digits: int = 2) -> str:
    """Formats the mean in %, and for several values also the lowest and highest value."""
    figure, bracket, bounds = spread(values, percent=True, digits=digits).partition(" (")
    return f"{figure} %{bracket}{bounds}"


def _environment(rows: _Rows) -> str:
    if not rows:
        return ""
    dates = sorted({row["date"] for row in rows})
    machines = dict.fromkeys(f"{row['cores']} cores of {row['cpu']}" for row in rows)
    return f"\n*Measured on {', '.join(machines)}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}.*\n"
