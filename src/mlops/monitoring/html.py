"""Renders a drift report as one HTML file without external resources."""

import base64
import html
import io
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from src.mlops.io.figures import label
from src.mlops.monitoring.baseline import Baseline
from src.mlops.monitoring.descriptors import DESCRIPTORS
from src.mlops.monitoring.findings import TITLES, Finding
from src.mlops.monitoring.observations import FEATURES, MODEL, Floats
from src.mlops.monitoring.report import Report, moment

_COLOURS = {"camera": "#c0392b", "mix": "#2471a3", "unknown": "#7d3c98", "model": "#717d7e"}
_MEANINGS = DESCRIPTORS | MODEL
_EXAMPLES = 8  # images before and after a change
ReadImage = Callable[[str], bytes | None]
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2833 }
h1 { margin-bottom: 0 }
.muted { color: #616a6b }
.finding { border-left: .4rem solid; padding: .2rem 1rem; margin: 1.2rem 0; background: #f8f9f9 }
.finding h2 { margin: .3rem 0 }
.good { border-color: #1e8449 }
table { border-collapse: collapse; margin: .6rem 0 }
td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top }
.n { text-align: right; font-variant-numeric: tabular-nums }
svg { max-width: 100%; height: auto }
img { height: 64px; margin: 2px }
.facts { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1.2rem 0 }
.facts b { display: block; font-size: 1.5rem }
summary { cursor: pointer; margin: 1rem 0 }
"""


def to_html(report: Report, read_image: ReadImage = lambda name: None) -> str:
    """Returns the report as a complete HTML document.

    Args:
        report: The report.
        read_image: Returns the PNG bytes of a stored image, given its name in the log; None if it is gone.
    """
    origin, window = report.baseline.origin, report.looks.window
    body = [
        "<h1>Drift report</h1>",
        f"<p class=muted>{moment(report.stream.time[0])} to {moment(report.stream.time[-1])} · model "
        f"{html.escape(origin.model_version)} · compared with the baseline <b>{html.escape(origin.name)}</b>, "
        f"{html.escape(origin.described)} ({html.escape(origin.source)})</p>",
        _facts(report),
        *([_finding(report, finding, read_image) for finding in report.findings] or [_nothing(report)]),
        "<h2>Evidence over time</h2>",
        "<p class=muted>One point per look. Above the line, an alarm is raised.</p>",
        _svg(_evidence_figure(report)),
        "<h2>Signs</h2>",
        _svg(_classes_figure(report)),
        "<details><summary>All features</summary>",
        _feature_table(report),
        "</details>",
        f"<p class=muted>{html.escape(report.to_dict()['method'])} A window of {len(report.stream):,} images shows "
        f"{len(window.last):,} physical signs; several frames of one sign count once.</p>",
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Drift report</title><style>{_STYLE}</style><body>{''.join(body)}</body></html>\n"
    )


def _facts(report: Report) -> str:
    window = report.looks.window
    facts = {"images": f"{len(report.stream):,}", "physical signs": f"{len(window.last):,}"}
    if report.accuracy:
        accuracy, low, high = report.accuracy
        facts[f"estimated accuracy ({low:.1%} to {high:.1%})"] = f"{accuracy:.1%}"
    facts[f"unknown ({report.baseline.unknown.mean():.1%} in the baseline)"] = f"{(~window.known).mean():.1%}"
    return f"<div class=facts>{''.join(f'<div><b>{value}</b>{name}</div>' for name, value in facts.items())}</div>"


def _nothing(report: Report) -> str:
    strongest = max(float(getattr(report.looks, kind).max()) for kind in TITLES)
    return (
        '<div class="finding good"><h2>No drift</h2><p>The images, the mix of signs and the share of unknown things '
        f"agree with the baseline. The strongest evidence is {strongest:.0%} of what an alarm needs.</p></div>"
    )


def _finding(report: Report, finding: Finding, read_image: ReadImage) -> str:
    ended = "It continues." if finding.ongoing else "It has ended."
    parts = [
        f'<div class=finding style="border-color:{_COLOURS[finding.kind]}"><h2>{TITLES[finding.kind]}</h2>',
        f"<p><b>{finding.severity}</b>, since about {moment(finding.since)} (image {finding.since_row + 1:,}), found "
        f"after {finding.found_row:,} images. {ended} {html.escape(finding.reservation)}</p>",
    ]
    if finding.kind == "unknown":
        more = f"{100 * finding.size:.1f} percentage points more images look unknown than in the baseline."
        rare = "Not more images are reported as unknown than in the baseline, but more are close to the threshold."
        parts.append(f"<p>{more if finding.size >= 0.0005 else rare}</p>")
    if finding.features:
        rows = [
            (
                html.escape(change.feature.replace("_", " ")),
                "higher" if change.rank > 0 else "lower",
                f"{change.before:.3g} → {change.after:.3g}",
                html.escape(_MEANINGS[change.feature]),
            )
            for change in finding.features[:6]
        ]
        parts.append(_table(("feature", "", "median", "meaning"), rows))
        parts.append(_svg(_histograms(report, finding)))
    if finding.classes:
        shares = [
            (html.escape(change.name), f"{change.before:.1%}", f"{change.after:.1%}") for change in finding.classes
        ]
        title = "looks like" if finding.kind == "unknown" else "sign"
        parts.append(_table((title, "before", "since then"), shares, numbers=2))
    parts.append(_examples(report, finding, read_image))
    return "".join([*parts, "</div>"])


def _examples(report: Report, finding: Finding, read_image: ReadImage) -> str:
    """Returns stored images of the time before and after the change; nothing if images are not stored."""
    if "image" not in report.records:
        return ""
    stored = report.records["image"].notna().to_numpy()
    if finding.kind == "unknown":
        stored = stored & report.stream.unknown
    lines = []
    for title, rows in (
        ("before", slice(0, finding.since_row)),
        ("since then", slice(finding.since_row, finding.until_row)),
    ):
        places = np.flatnonzero(stored[rows]) + rows.start
        spread = places[np.linspace(0, len(places) - 1, min(len(places), _EXAMPLES)).astype(int)]
        contents = [content for place in spread if (content := read_image(str(report.records["image"].iloc[place])))]
        tags = "".join(
            f'<img alt="" src="data:image/png;base64,{base64.b64encode(content).decode()}">' for content in contents
        )
        lines.append((title, tags or "no stored images"))
    return _table(("images", ""), lines)


def _histograms(report: Report, finding: Finding) -> Figure:
    shown = finding.features[:3]
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    for axes, change in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        before = _column(report.baseline, change.feature)
        after = report.stream.column(change.feature)[finding.since_row : finding.until_row]
        low, high = np.quantile(np.concatenate([before, after]), [0.005, 0.995]).tolist()
        if low < high:
            edges = np.linspace(low, high, 31)
            axes.hist(before, edges, density=True, color="#99a3a4", label="baseline")
            axes.hist(
                after, edges, density=True, histtype="step", color=_COLOURS[finding.kind], lw=2, label="since then"
            )
        axes.set(title=change.feature.replace("_", " "), yticks=[])
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize="small")
    return figure


def _evidence_figure(report: Report) -> Figure:
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.subplots()
    ends = np.maximum(report.looks.ends, 1) - 1
    moments = np.array([np.datetime64(int(second * 1000), "ms") for second in report.stream.time[ends]])
    for kind, title in TITLES.items():
        evidence = getattr(report.looks, kind).reshape(len(ends), -1).max(axis=1)
        axes.plot(moments, np.maximum(evidence, 0.01), ".-", ms=3, lw=1, color=_COLOURS[kind], label=title)
    axes.axhline(1, color="black", lw=1)
    axes.set(yscale="log", ylabel="evidence / limit")
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="best")
    return figure


def _classes_figure(report: Report) -> Figure:
    before, after = report.mixes()
    order = np.argsort(-np.abs(after - before), kind="stable")[:15][::-1]
    names = report.baseline.origin.classes
    figure = Figure(figsize=(9, 0.8 + 0.28 * len(order)), layout="constrained")
    axes = figure.subplots()
    axes.barh(np.arange(len(order)) + 0.2, 100 * before[order], 0.38, color="#99a3a4", label="baseline")
    axes.barh(np.arange(len(order)) - 0.2, 100 * after[order], 0.38, color=_COLOURS["mix"], label="this window")
    axes.set_yticks(np.arange(len(order)), [label(names[c]) for c in order])
    axes.set(xlabel="share of the signs, estimated, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return figure


def _feature_table(report: Report) -> str:
    rows = [
        (
            html.escape(str(row["name"]).replace("_", " ")),
            f"{row['before']:.3g}",
            f"{row['after']:.3g}",
            f"{row['mean_rank']:+.3f}",
            f"{row['evidence']:.2f}",
            html.escape(_MEANINGS[row["name"]]),
        )
        for row in report.to_dict()["features"]
    ]
    return _table(("feature", "before", "after", "mean rank", "evidence", "meaning"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    kind = [" class=n" if place >= len(head) - numbers else "" for place in range(len(head))]
    heads = "".join(f"<th{k}>{name}</th>" for k, name in zip(kind, head, strict=True))
    lines = ["".join(f"<td{k}>{cell}</td>" for k, cell in zip(kind, row, strict=True)) for row in rows]
    return f"<table><tr>{heads}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _column(baseline: Baseline, name: str) -> Floats:
    return np.asarray(baseline.values[:, FEATURES.index(name)])


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]  # without the declarations of a file of its own
