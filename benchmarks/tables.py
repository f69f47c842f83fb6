"""Writes the tables in README and docs from the results: `python -m benchmarks.tables`.

It replaces all text between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import re
import statistics
from collections import defaultdict
from collections.abc import Callable

from benchmarks import drift_tables
from benchmarks.environment import DECODE_AND_INFER, UPPER_BOUND, read_results
from benchmarks.figures import grouped, interval, seeds, spread, wilson
from benchmarks.markdown import markdown_table, where
from benchmarks.summary import summary
from src.mlops import ROOT
from src.mlops.cli import new_app, typer_main

app = new_app()

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_Rows = list[dict[str, str]]
_DASH = "–"
ALL_TEST_IMAGES = 12_630  # of GTSRB
# What is measured of each score for unknown images: the title of the table, the column of the results, and its digits.
_MEASURES = (("Flagged as unknown, %", "called_unknown", 1), ("AUROC, %", "auroc", 2), ("FPR95, %", "fpr95", 1))
# Single networks with their parameters, MACs in millions and accuracy, as published for all test images.
PUBLISHED = (
    ("MicronNet (Wong et al. 2018)", "0.51 M", "10", 0.989),
    ("spatial transformers (Arcos-García et al. 2018)", "14 M", _DASH, 0.9971),
    ("real and synthetic images (Lopes da Silva and Ramires Fernandes 2022)", "2.7 M", _DASH, 0.998),
)


def render(text: str) -> str:
    """Returns a document with its tables replaced by the current ones."""
    return _PLACE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", text)


def _accuracy() -> str:
    rows = [
        [
            f"`{overrides}`" if overrides else "default",
            group[0]["image_size"],
            f"{int(group[0]['parameters']):,}",
            group[0]["mmac"],
            *(_fastest(group, column) for column in ("seconds_per_epoch", "ms_per_image_onnx")),
            spread([float(row["test_accuracy"]) for row in group], percent=True),
            interval(group),
            ", ".join(row["test_wrong"] for row in group) + f" of {int(group[0]['test_images']):,}",
            spread([float(row["val_accuracy"]) for row in group], percent=True),
            spread([float(row["test_calibration_error"]) for row in group], digits=4),
        ]
        for overrides, group in _groups("accuracy", "overrides")
    ]
    if rows:
        rows += map(_published, PUBLISHED)
    head = "configuration|image size, px|parameters|MACs, M|seconds per epoch, fastest run"
    head += "|ms per image in ONNX Runtime, fastest run|test accuracy, %|95 % interval|misclassified test images"
    head += "|validation accuracy, %|ECE"
    return markdown_table(head, rows) + where(read_results("accuracy"))


def _fastest(group: _Rows, column: str) -> str:
    """Formats the lowest value; a dash if no row has one, because an earlier version did not measure it."""
    values = [float(row[column]) for row in group if row.get(column)]
    return f"{min(values):g}" if values else _DASH


def _published(row: tuple[str, str, str, float]) -> list[str]:
    name, parameters, macs, accuracy = row
    wrong = round(ALL_TEST_IMAGES * (1 - accuracy))
    figures = [f"{100 * accuracy:.2f}", wilson(wrong, ALL_TEST_IMAGES), f"about {wrong} of {ALL_TEST_IMAGES:,}"]
    return [f"{name}, published", _DASH, parameters, macs, _DASH, _DASH, *figures, _DASH, _DASH]


def _time_to_accuracy() -> str:
    rows = []
    for name, group in _groups("time_to_accuracy", "recipe"):
        reached = [[row[f"seconds_to_{target}"] for row in group] for target in (98, 99)]
        cells = [", ".join(seconds or "not reached" for seconds in column) for column in reached]
        rows.append([name, *cells, _median(group, "seconds_per_epoch"), group[0]["epochs"], str(len(group))])
    head = "recipe|seconds to 98 %, per trial|seconds to 99 %, per trial|seconds per epoch|epochs|trials"
    return markdown_table(head, rows) + where(read_results("time_to_accuracy"))


def _loader() -> str:
    columns = ["loader", "repeated", "images", "images_per_second", "ms_per_batch", "seconds_to_open", "grown_mb"]
    rows = [[row[column] for column in [*columns, "of_that_mapped_mb"]] for row in read_results("loader")]
    head = "loader|repetitions|training images|images/s|ms per batch|seconds to open|peak RSS growth, MB"
    return markdown_table(f"{head}|of which memory-mapped file, MB", rows) + where(read_results("loader"))


def _step() -> str:
    cells: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    results = read_results("step")
    for row in results:
        variant = row["variant"] if row["device"] == "cpu" else f"{row['variant']}, {row['device']}"
        cells[row["model"], variant][row["image_size"]] = row["ms_per_step"]
    sizes = list(dict.fromkeys(row["image_size"] for row in results))
    rows = [[*key, *(ms.get(size, "") for size in sizes)] for key, ms in cells.items()]
    head = "|".join(["network", "variant", *(f"ms per step at {size} px" for size in sizes)])
    return markdown_table(head, rows) + where(results)


def _variants() -> str:
    results = read_results("variants")
    rows = []
    for form, group in _groups("variants", "form"):
        threads = {row["threads_used"]: row for row in group}
        first = threads["1"]
        times = [" / ".join(row[f"p{p}_ms"] for row in threads.values()) for p in (50, 95, 99)]
        rates = " / ".join(f"{int(row['images_per_second']):,}" for row in threads.values())
        size = f"{float(first['megabytes']):.2f}"
        cells = [f"{100 * float(first['accuracy']):.2f}", first["f1"], size, f"{int(first['parameters']):,}"]
        rows.append([form, *cells, first["mmac"], first["start_seconds"], first["resident_mb"], *times, rates])
    head = "variant|accuracy, %|macro F1|file, MB|parameters|MACs, M"
    head += "|seconds to first prediction|RSS, MB"
    head += "|median ms per image|95th percentile, ms|99th percentile, ms|images/s in batches of 32"
    note = ""
    if results:
        note = (
            "\nLatency and throughput are given for one / two threads. Decoding and resizing "
            f"({_median(results, 'preprocess_ms')} ms per image) are excluded. "
            f"ONNX Runtime {results[0]['onnxruntime']}.\n"
        )
    return markdown_table(head, rows) + note + where(results)


def _batch_prediction() -> str:
    results = read_results("batch_prediction")
    bounds = [int(row["images_per_second"]) for row in results if row["way"].startswith(DECODE_AND_INFER)]
    fastest = max(bounds, default=1)
    rows = [
        [row["way"], f"{int(row['images_per_second']):,}", f"{100 * int(row['images_per_second']) / fastest:.0f}"]
        for row in results
    ]
    return markdown_table(f"method|images/s|% of upper bound ({DECODE_AND_INFER})", rows) + where(results)


def _unknown() -> str:
    text = ""
    for model, group in _groups("unknown", "model"):
        scores = list(dict.fromkeys(row["score"] for row in group))
        known = {row["score"]: row["known_called_unknown"] for row in group}
        kinds = grouped(group, "kind").items()
        text += f"\n**{model}**\n"
        for title, column, digits in _MEASURES:
            rows = [
                [kind, found[0]["images"], *_cells({row["score"]: row[column] for row in found}, scores, digits)]
                for (kind,), found in kinds
            ]
            if column == "called_unknown":
                rows.append(["known test signs", "", *_cells(known, scores, digits)])
            text += f"\n{title}:\n\n" + markdown_table("|".join(["kind", "images", *scores]), rows)
    return (text or markdown_table("", [])) + where(read_results("unknown"))


def _cells(values: dict[str, str], scores: list[str], digits: int) -> list[str]:
    return [f"{100 * float(values[score]):.{digits}f}" if values.get(score) else _DASH for score in scores]


def _left_out() -> str:
    text = ""
    for (overrides, trainings), group in grouped(read_results("left_out"), "overrides", "trainings").items():
        classes = {
            name: {row["score"]: row["called_unknown"] for row in own}
            for (name,), own in grouped(group, "name").items()
        }
        rows = [_left_out_score(score, own) for (score,), own in grouped(group, "score").items()]
        head = "score|flagged as unknown, %|class with the fewest|known test signs flagged, %|AUROC, %|FPR95, %"
        text += f"\n`{overrides}`, trainings: {trainings}, classes: {len(classes)}\n\n" + markdown_table(head, rows)
        scores = [row[0] for row in rows]
        hardest = sorted(classes, key=lambda name: float(classes[name]["unknown score"]))[:10]
        text += "\nThe ten classes that are flagged least, in %:\n\n"
        rows = [[name, *_cells(classes[name], scores, digits=1)] for name in hardest]
        text += markdown_table("|".join(["class", *scores]), rows)
    return (text or markdown_table("", [])) + where(read_results("left_out"))


def _left_out_score(score: str, rows: _Rows) -> list[str]:
    worst = min(rows, key=lambda row: float(row["called_unknown"]))
    measured = [float(row["fpr95"]) for row in rows if row["fpr95"]]
    return [
        score,
        spread([float(row["called_unknown"]) for row in rows], percent=True, digits=1),
        worst["name"],
        spread([float(row["known_called_unknown"]) for row in rows], percent=True),
        spread([float(row["auroc"]) for row in rows], percent=True),
        spread(measured, percent=True, digits=1) if measured else _DASH,
    ]


def _label_errors() -> str:
    results = read_results("label_errors")
    rows = []
    notes = []
    for unit, trials in _groups("label_errors", "unit"):
        for ranking in dict.fromkeys(row["ranking"] for row in trials):
            group = [row for row in trials if row["ranking"] == ranking]
            shares = (
                spread([float(row[f"found_in_first_{first}"]) for row in group], percent=True, digits=1)
                for first in (1, 2, 3)
            )
            rows.append([f"single {unit}s" if unit == "image" else f"complete {unit}s", ranking, *shares])
        trial = [row for row in trials if row["ranking"] == trials[0]["ranking"]]
        listed, wrong, right = (sum(int(row[key]) for row in trial) for key in ("listed", "wrong", "listed_wrong"))
        notes.append(
            f"With wrong labels of {rows[-1][0]}, `label_errors.csv` lists {listed / len(trial):,.0f} images: "
            f"{100 * right / wrong:.1f} % of the {wrong / len(trial):,.0f} with a wrong label, and "
            f"{(listed - right) / len(trial):,.0f} others. It takes {_median(trial, 'seconds')} s ({seeds(trial)})."
        )
    head = "labels that are wrong|ranking|found in the first 1 %, %|found in the first 2 %, %|found in the first 3 %, %"
    return markdown_table(head, rows) + "".join(f"\n{note}\n" for note in notes) + where(results)


def _serving() -> str:
    text = ""
    for model, group in _groups("serving", "model"):
        bounds = [row for row in group if row["way"].startswith(UPPER_BOUND)]
        rates = ", ".join(f"{_count(row)} ({row['way'].removeprefix(f'{UPPER_BOUND}, ')})" for row in bounds)
        text += f"\n**{model}.** Images/s of the {UPPER_BOUND}: {rates}. One image takes {bounds[0]['p50_ms']} ms.\n\n"
        rows = []
        for way in dict.fromkeys(row["way"] for row in group if row not in bounds):
            at = {row["concurrency"]: row for row in group if row["way"] == way}
            one, busy = at["1"], at["32"]
            errors = sum(float(row["errors"]) for row in at.values())
            memory_and_start = [one["largest_process_mb"].removesuffix(".0"), one["start_seconds"]]
            times = [one["p50_ms"], *(busy[f"p{share}_ms"] for share in (50, 95, 99))]
            label = f"{way} ({one['setting']})" if one["setting"] else way
            rows.append([label, *map(_count, at.values()), *times, f"{errors:.0f}", *memory_and_start])
        head = "server|" + "|".join(f"images/s with {count} connection{'s' * (count > 1)}" for count in (1, 8, 32, 128))
        head += "|median ms with 1 connection|median ms with 32|95th percentile with 32, ms|99th percentile with 32, ms"
        text += markdown_table(f"{head}|errors|RSS of the largest process, MB|seconds to first response", rows)
    return text + where(read_results("serving"))


def _own_data() -> str:
    rows = []
    for group in grouped(read_results("own_data"), "data", "overrides").values():
        first = group[0]
        label = f"{first['data']}, `{first['overrides']}`" if first["overrides"] else first["data"]
        images = f"{int(first['train_images']) + int(first['val_images']):,}"
        other = [float(row["svc_accuracy"]) for row in group if row["svc_accuracy"]]
        rows.append(
            [
                label,
                first["classes"],
                images,
                f"{int(first['test_images']):,}",
                spread([float(row["test_accuracy"]) for row in group], percent=True),
                spread(other, percent=True) if other else "",
                ", ".join(f"{float(row['train_seconds']):.0f}" for row in group),
                str(len(group)),
            ]
        )
    head = "images|classes|training and validation images|test images|test accuracy, %|SVC on the same pixels, %"
    return markdown_table(f"{head}|seconds of the training command, per trial|trials", rows) + where(
        read_results("own_data")
    )


def _count(row: dict[str, str]) -> str:
    return f"{float(row['images_per_second']):,.0f}"


def _uploads() -> str:
    results = read_results("uploads")
    return markdown_table(
        "way to read one image|µs per request", [[row["way"], row["microseconds"]] for row in results]
    ) + where(results)


def _soak() -> str:
    results = read_results("soak")
    rows = [
        [f"{int(row['seconds']) / 60:.0f}", f"{float(row['resident_mb']):.0f}"]
        for row in results
        if int(row["seconds"]) % 60 < 10
    ]
    return markdown_table("minute|RSS, MB", rows) + where(results)


def _prediction_log() -> str:
    results = read_results("prediction_log")
    rows = [
        [
            row["load"],
            row["pairs"],
            f"{row['images_per_second_with_log']} / {row['images_per_second']}",
            f"{row['rate_ratio']} ({row['rate_ratio_lowest']})",
            f"{row['cpu_ms_with_log']} / {row['cpu_ms']}",
            f"{row['cpu_ratio']} ({row['cpu_ratio_highest']})",
            f"{row['p99_ms_with_log']} / {row['p99_ms']}",
            row["records_written"],
            str(int(row["records_lost"]) + int(row["records_missing"])),
        ]
        for row in results
    ]
    head = (
        "load|pairs|images/s with / without the log|ratio (lowest)|CPU ms per image with / without|ratio (highest)|"
        "99th percentile with / without, ms|records written|records lost"
    )
    return markdown_table(head, rows) + where(results)


def _shadow() -> str:
    results = read_results("shadow")
    rows = [
        [
            row["load"],
            row["pairs"],
            f"{row['images_per_second_with_shadow']} / {row['images_per_second']}",
            f"{row['rate_ratio']} ({row['rate_ratio_lowest']})",
            f"{row['p50_ms_with_shadow']} / {row['p50_ms']}",
            f"{row['p99_ms_with_shadow']} / {row['p99_ms']}",
            f"{row['p99_ratio']} ({row['p99_ratio_highest']})",
            f"{int(row['shadowed']) / int(row['images']):.0%}",
            f"{row['errors_with_shadow']} / {row['errors']}",
        ]
        for row in results
    ]
    head = (
        "load|pairs|images/s with / without a shadow|ratio (lowest)|median with / without, ms|"
        "99th percentile with / without, ms|ratio (highest)|answered by the shadow|errors with / without"
    )
    return markdown_table(head, rows) + where(results)


def _drift_job() -> str:
    results = read_results("drift_job")
    columns = ("form", "embedding", "records", "log_mb", "seconds", "slowest_seconds", "peak_memory_mb")
    head = "form of the log|numbers per embedding|records|log, MB|seconds, median|seconds, slowest|peak RSS, MB"
    return markdown_table(head, [[row[column] for column in columns] for row in results]) + where(results)


def _synthetic_only() -> str:
    rows = [
        [
            f"`experiment={experiment}`",
            str(len(group)),
            spread([float(row["test_accuracy"]) for row in group], percent=True),
            interval(group),
            ", ".join(row["test_wrong"] for row in group) + f" of {int(group[0]['test_images']):,}",
            spread([float(row["val_accuracy_drawn"]) for row in group], percent=True),
            f"{max(float(row['seconds']) for row in group) / 60:.0f}",
        ]
        for experiment, group in _groups("synthetic_only", "experiment")
    ]
    head = "experiment|seeds|accuracy on real test images, %|95 % interval|misclassified"
    head += "|accuracy on synthetic validation images, %|minutes, longest run"
    return markdown_table(head, rows) + where(read_results("synthetic_only"))


def _synthetic_only_classes() -> str:
    results = [row for row in read_results("synthetic_only_classes") if row["experiment"] == "synthetic_only"]
    classes = sorted(grouped(results, "class").items(), key=lambda one: sum(float(row["recall"]) for row in one[1]))
    rows = [
        [name, group[0]["images"], spread([float(row["recall"]) for row in group], percent=True, digits=1)]
        for (name,), group in classes
    ]
    return markdown_table("class|test images|classified correctly, %", rows) + where(results)


def _realism() -> str:
    rows = [[row["class"], row["images"], f"{float(row['auroc']):.3f}"] for row in read_results("realism")]
    # The first row is about all classes.
    shown = rows[:1] + sorted(rows[1:], key=lambda row: -float(row[2]))
    return markdown_table("class|held-out images|AUROC", shown) + where(read_results("realism"))


def _camera_shifts() -> str:
    results = read_results("camera_shifts")
    models = grouped(results, "model")
    rows = []
    for (shift, strength), group in grouped(results, "shift", "strength").items():
        cells = []
        for row in group:
            cell = f"{100 * float(row['accuracy']):.2f}"
            if row["p_value"]:
                cell += f" ({row['wrong_only_here']} / {row['wrong_only_there']})"
                cell = f"**{cell}**" if float(row["p_value"]) < 0.05 else cell
            cells.append(cell)
        rows.append([shift, strength, *cells])
    note = ""
    if results:
        first, *others = (name for (name,) in models)
        note = f"\n{int(results[0]['images']):,} images of the split `{results[0]['split']}`."
        if others:
            note += (
                f" In brackets: images that only this model misclassifies, and those that only {first} misclassifies. "
                "In the last row, these are the images that it misclassifies under more shifts, and under fewer. Bold: "
                "more mistakes, with p < 0.05 in McNemar's exact test; one in twenty is expected by chance."
            )
        note += "\n"
    head = "|".join(["shift", "strength", *(f"{name}, %" for (name,) in models)])
    return markdown_table(head, rows) + note + where(results)


TABLES: dict[str, Callable[[], str]] = {
    "summary": summary,
    "accuracy": _accuracy,
    "time_to_accuracy": _time_to_accuracy,
    "loader": _loader,
    "step": _step,
    "variants": _variants,
    "unknown": _unknown,
    "left_out": _left_out,
    "label_errors": _label_errors,
    "batch_prediction": _batch_prediction,
    "serving": _serving,
    "soak": _soak,
    "uploads": _uploads,
    "prediction_log": _prediction_log,
    "shadow": _shadow,
    "drift_job": _drift_job,
    "own_data": _own_data,
    "synthetic_only": _synthetic_only,
    "synthetic_only_classes": _synthetic_only_classes,
    "realism": _realism,
    "camera_shifts": _camera_shifts,
    "drift": drift_tables.drift,
    "drift_false_alarms": drift_tables.drift_false_alarms,
    "drift_accuracy": drift_tables.drift_accuracy,
    "drift_contenders": drift_tables.drift_contenders,
}


def _groups(name: str, column: str) -> list[tuple[str, _Rows]]:
    return [(key[0], rows) for key, rows in grouped(read_results(name), column).items()]


def _median(rows: _Rows, column: str) -> str:
    return f"{statistics.median(float(row[column]) for row in rows):g}"


@app.command()
def main() -> None:
    """Writes the tables of README and docs from benchmarks/results/."""
    for document in DOCUMENTS:
        document.write_text(render(document.read_text()))


if __name__ == "__main__":
    typer_main(app)
