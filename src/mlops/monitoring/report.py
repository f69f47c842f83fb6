"""The result of one comparison of a window with a baseline, as JSON and as metrics for Prometheus."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from src.mlops.io.files import to_json
from src.mlops.monitoring.accuracy import Estimate
from src.mlops.monitoring.baseline import Baseline
from src.mlops.monitoring.detector import ERROR_RATE, EVERY, HORIZONS, LOOKS, SHARES, Looks, look
from src.mlops.monitoring.findings import TITLES, Finding, estimate_mix, find
from src.mlops.monitoring.observations import CAMERA, FEATURES, Observations
from src.mlops.monitoring.records import Model, observe

FORMAT = 1
_METHOD = (
    "Stratified rank tests, precedence tests and e-values on clusters of frames, with bounds that hold at any sample "
    f"size, after every {EVERY} images over the last {', '.join(map(str, HORIZONS))} images. With unchanged traffic, "
    f"the probability of any alarm in {LOOKS:,} looks is at most {ERROR_RATE:.0%}, over all tests together."
)


@dataclass(frozen=True)
class Report:
    """A window of the prediction log compared with a baseline.

    Attributes:
        baseline: The baseline.
        stream: The observations of the window.
        records: Their records, one row per observation.
        looks: The evidence of all looks.
        findings: The kinds of drift found.
        accuracy: Estimated accuracy of the whole window; None if the baseline has no labelled images.
    """

    baseline: Baseline
    stream: Observations
    records: pd.DataFrame
    looks: Looks
    findings: list[Finding]
    accuracy: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values; docs/reference/drift-report.md describes them."""
        origin, window = self.baseline.origin, self.looks.window
        before, after = self.mixes()
        ranks = window.ranks.mean(axis=0)
        evidence = np.concatenate([self.looks.camera, self.looks.model], axis=-1).max(axis=(0, 1))
        values = np.median(self.stream.values, axis=0)
        usual = np.median(self.baseline.values, axis=0)
        return {
            "format": FORMAT,
            "method": _METHOD,
            "model_version": origin.model_version,
            "class_list": origin.class_list,
            "baseline": {
                "name": origin.name,
                "created": origin.created,
                "author": origin.author,
                "source": origin.source,
                "images": origin.images,
                "clusters": len(self.baseline),
            },
            "window": {
                "start": moment(self.stream.time[0]),
                "end": moment(self.stream.time[-1]),
                "images": len(self.stream),
                "clusters": len(window.last),
                "looks": len(self.looks.ends),
            },
            "drift": bool(self.findings),
            "findings": [
                {**asdict(finding), **_named(finding), "title": TITLES[finding.kind], "since": moment(finding.since)}
                for finding in self.findings
            ],
            "evidence": {kind: float(getattr(self.looks, kind).max()) for kind in SHARES},
            "accuracy": self.accuracy and self.accuracy._asdict(),
            "unknown_share": {
                "before": float(self.baseline.unknown.mean()),
                "after": float((~window.known).mean()),
            },
            "features": [
                {
                    "name": name,
                    "of": "image" if name in CAMERA else "model",
                    "before": float(usual[place]),
                    "after": float(values[place]),
                    "mean_rank": float(ranks[place]),
                    "evidence": float(evidence[place]),
                }
                for place, name in enumerate(FEATURES)
            ],
            "classes": [
                {"class_id": place, "name": name, "before": float(before[place]), "after": float(after[place])}
                for place, name in enumerate(origin.classes)
            ],
        }

    def mixes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns the estimated share of each class in the baseline and in the window, float64 [C] each."""
        before, after = self.baseline.predicted, self.looks.window.predicted
        return estimate_mix(before, self.baseline), estimate_mix(after, self.baseline)

    def to_json(self) -> str:
        """Returns `to_dict` as JSON."""
        return to_json(self.to_dict(), indent=2) + "\n"

    def to_prometheus(self) -> str:
        """Returns gauges in the text format of Prometheus, for the textfile collector or a push gateway."""
        registry = CollectorRegistry()
        labels = {"model_version": self.baseline.origin.model_version, "baseline": self.baseline.origin.name}

        def gauge(name: str, text: str, values: dict[str, float], label: str = "") -> None:
            metric = Gauge(f"mlops_drift_{name}", text, [*labels, *([label] if label else [])], registry=registry)
            for key, value in values.items():
                metric.labels(**labels, **({label: key} if label else {})).set(value)

        found = {finding.kind: finding for finding in self.findings}
        gauge("alarm", "1 if this kind of drift was found.", {kind: float(kind in found) for kind in TITLES}, "kind")
        strongest = {kind: float(getattr(self.looks, kind).max()) for kind in TITLES}
        gauge("evidence", "Strongest evidence of this kind; above 1 it is an alarm.", strongest, "kind")
        ranks = dict(zip(FEATURES, map(float, self.looks.window.ranks.mean(axis=0)), strict=True))
        gauge("mean_rank", "Mean rank within the baseline, -0.5 to 0.5; 0 without drift.", ranks, "feature")
        gauge("images", "Images in the window.", {"": float(len(self.stream))})
        gauge("clusters", "Physical signs in the window.", {"": float(len(self.looks.window.last))})
        gauge("unknown_share", "Share of the signs that are unknown.", {"": float((~self.looks.window.known).mean())})
        if self.accuracy:
            names = ("estimate", "low", "high")
            gauge(
                "accuracy",
                "Estimated accuracy, with a 95 % interval.",
                dict(zip(names, self.accuracy, strict=True)),
                "bound",
            )
        gauge("window_end_seconds", "Unix time of the newest image.", {"": float(self.stream.time[-1])})
        return generate_latest(registry).decode()


def compare(frame: pd.DataFrame, baseline: Baseline, seconds: float = 2.0) -> Report:
    """Compares records with a baseline.

    Args:
        frame: Records of the window, in any order; see `records.observe`.
        baseline: The baseline. Records of other models than its own are left out.
        seconds: Longest time between two frames of one physical sign; 0: all records are independent.

    Raises:
        DataError: There are no usable records of the model and the class list of the baseline.
    """
    model = Model(baseline.origin.model_version, baseline.origin.class_list)
    stream, records = observe(frame, baseline.knowledge.centres, model, seconds)
    looks = look(stream, baseline)
    findings = find(stream, looks, baseline)
    return Report(baseline, stream, records, looks, findings, baseline.estimate_accuracy(stream))


def moment(seconds: float) -> str:
    """Returns a Unix time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(float(seconds), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _named(finding: Finding) -> dict[str, Any]:
    return {
        "features": [change._asdict() for change in finding.features],
        "classes": [change._asdict() for change in finding.classes],
    }
