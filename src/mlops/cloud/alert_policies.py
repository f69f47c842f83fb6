"""Turns the alerts of `monitoring/` into alert policies of Cloud Monitoring.

Rules, limits and severities are read from `monitoring/alerts.yml` and `monitoring/recording.yml`, and what to do from
`docs/how-to/runbook.md`, each time that the policies are applied: a changed limit is changed in one place.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from src.mlops import ROOT
from src.mlops.cloud.names import Names, fill

RULES = ROOT / "monitoring"
_RECORDED = re.compile(r"\b[a-z]+:\w+:\w+\b")  # the name of a recording rule
_METRIC = re.compile(r"\b(?P<name>mlops_\w+|up)\b(?:\{(?P<labels>[^}]*)\})?")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_EVALUATED = "60s"  # a multiple of 30 s; the sidecar reads the metrics every 30 s


def alert_policies(names: Names, host: str, channels: list[str]) -> dict[str, dict[str, Any]]:
    """Returns the alert policies of the service in production by display name, as the Monitoring API expects them.

    Args:
        names: Names of the resources.
        host: Host name of the service, which the uptime check calls.
        channels: Resource names of the channels that are notified.
    """
    special = fill("monitoring/alerts.yaml", names.cloud, host=host, log=f"logging_googleapis_com:user_{names.prefix}")
    return {
        title: {
            "displayName": title,
            "severity": rule["labels"]["severity"].upper(),
            "documentation": _documentation(names, rule["alert"]),
            "combiner": "OR",
            "conditions": [{"displayName": rule["alert"], **_condition(names, group, rule, own)}],
            "notificationChannels": channels,
            "alertStrategy": {"autoClose": "1800s"},  # the shortest possible time
        }
        for group, rule in _rules("alerts.yml")
        if (own := special.get(rule["alert"], {"needs": ["metrics"]})).get("left_out") is None
        and has_data(names, own["needs"])
        and (title := f"{names.service}: {rule['alert']}")
    }


def has_data(names: Names, needs: list[str]) -> bool:
    """Returns whether the settings are there that an alert or a metric of logs needs: `metrics` or `log`."""
    return all({"metrics": names.metrics, "log": bool(names.log)}[need] for need in needs)


def to_cloud(names: Names, query: str) -> str:
    """Returns a query in PromQL as Cloud Monitoring needs it.

    It evaluates no recording rules, so their names are replaced by their expressions. The sidecar sets `namespace` to
    the name of the service, and `job` to its own name.
    """
    recorded = {rule["record"]: rule["expr"] for _, rule in _rules("recording.yml")}
    while found := [name for name in _RECORDED.findall(query) if name in recorded]:
        query = query.replace(found[0], f"({recorded[found[0]]})")

    def selected(match: re.Match[str]) -> str:
        labels = [label.strip() for label in (match["labels"] or "").split(",")]
        kept = [label for label in labels if label and not re.match(r"job\s*=", label)]
        return match["name"] + "{" + ", ".join(('cluster="__run__"', f'namespace="{names.service}"', *kept)) + "}"

    return " ".join(_METRIC.sub(selected, query).split())


def _rules(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name of the group and the rule, for each rule in a file of Prometheus."""
    for group in yaml.safe_load((RULES / file).read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield group["name"], rule


def _condition(names: Names, group: str, rule: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    if "condition" in own:
        condition: dict[str, Any] = own["condition"]
        return condition
    duration = rule.get("for", "0s")
    return {
        "conditionPrometheusQueryLanguage": {
            "query": to_cloud(names, own.get("query", rule["expr"])),
            "duration": f"{int(duration[:-1]) * _SECONDS[duration[-1]]}s",
            "evaluationInterval": _EVALUATED,
            "ruleGroup": group,
            "alertRule": rule["alert"],
            # Otherwise, a policy would be refused until the first value of its metrics has arrived.
            "disableMetricValidation": True,
        }
    }


def _documentation(names: Names, alert: str) -> dict[str, Any]:
    """Returns the entry of the runbook, which stands in the notification, and a link to it if `cloud.github` is set."""
    text = (ROOT / "docs/how-to/runbook.md").read_text(encoding="utf-8")
    [entry] = [part for part in text.split("\n## ") if part.partition("\n")[0] == alert]
    documentation: dict[str, Any] = {
        "subject": f"{names.service}: {alert}",
        "content": _LINK.sub(r"\1", entry.partition("\n")[2].strip()),
        "mimeType": "text/markdown",
    }
    if names.cloud.github:
        url = f"https://github.com/{names.cloud.github}/blob/main/docs/runbook.md#{alert.lower()}"
        documentation["links"] = [{"displayName": "Runbook", "url": url}]
    return documentation
