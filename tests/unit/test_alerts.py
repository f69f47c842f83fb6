"""The files in `monitoring/`: rules, alerts, routes and dashboard, against the metrics that exist and the runbook."""

import functools
import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from src.mlops import ROOT
from src.mlops.monitoring.accuracy import Estimate
from src.mlops.monitoring.findings import TITLES
from src.mlops.monitoring.prediction_log import OUTCOMES
from src.mlops.monitoring.report import compare
from src.mlops.serving import prometheus
from src.mlops.serving.drift_app import create_app
from src.mlops.serving.settings import DriftSettings
from tests.helpers.programs import require
from tests.helpers.traffic import baseline, records

FOLDER = ROOT / "monitoring"
TESTS = sorted(FOLDER.glob("*_test.yml"))
OWN = {"up", "ALERTS"}  # metrics of Prometheus itself
# Families of metrics that end with these suffixes in queries
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return found


def rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in read(name)["groups"] for rule in group["rules"]]


ALERTS = rules("alerts.yml")
NAMES = [alert["alert"] for alert in ALERTS]
RECORDED = {rule["record"] for rule in rules("recording.yml")}
DASHBOARD = json.loads((FOLDER / "grafana/dashboards/mlops.json").read_text(encoding="utf-8"))
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])] + [
    annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]
]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER, check=False)
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


@functools.cache
def exported() -> set[str]:
    """Returns the names of all metrics that the service and the drift service export."""
    assert prometheus.exposition()  # the module registers the metrics of both services
    report = compare(records(300), baseline(), 0)
    object.__setattr__(report, "accuracy", Estimate(0.9, 0.8, 1.0))  # this baseline has no labelled images
    families = [*REGISTRY.collect(), *text_string_to_metric_families(report.to_prometheus())]
    return {family.name + suffix for family in families for suffix in SUFFIXES.get(family.type, [])}


def metrics(query: str) -> set[str]:
    without_labels = re.sub(r"\{[^}]*\}", "", query)
    return set(re.findall(r"\b(?:mlops_\w+|\w+:\w+:\w+|up|ALERTS)\b", without_labels))


def test_the_configuration_is_valid() -> None:
    run(require("promtool"), "check", "config", "prometheus.yml")


def test_critical_alerts_go_to_the_person_on_call() -> None:
    amtool = require("amtool")
    run(amtool, "check-config", "alertmanager.yml")
    severities = {alert["labels"]["severity"] for alert in ALERTS}
    routes = {
        severity: run(amtool, "config", "routes", "test", "--config.file=alertmanager.yml", f"severity={severity}")
        for severity in severities
    }
    assert {key: value.strip() for key, value in routes.items()} == {"critical": "on-call", "warning": "working-hours"}


def test_alerts_that_retraining_can_end_also_start_it() -> None:
    amtool = require("amtool")

    def receivers(*labels: str) -> list[str]:
        told = run(amtool, "config", "routes", "test", "--config.file=alertmanager.yml", "severity=warning", *labels)
        return told.strip().split(",")

    started = {name for name in NAMES if "retraining" in receivers(f"alertname={name}")}
    assert started == {"DriftFound", "ConfidenceDropped", "UnknownShareHigh"}
    for name in started:
        assert receivers(f"alertname={name}", "kind=camera") == ["retraining", "working-hours"]
    assert receivers("alertname=DriftFound", "kind=mix") == ["working-hours"]
    assert {kind for kind in TITLES if "retraining" in receivers("alertname=DriftFound", f"kind={kind}")} == {
        *TITLES
    } - {"mix"}


def test_the_webhook_is_a_route_of_the_drift_service() -> None:
    [receiver] = [each for each in read("alertmanager.yml")["receivers"] if each["name"] == "retraining"]
    [webhook] = receiver["webhook_configs"]
    assert webhook["url"] == "http://drift:8002/alerts"
    settings = DriftSettings(log_url="log", token=SecretStr("secret"))
    assert "post" in create_app(settings).openapi()["paths"]["/alerts"]
    assert settings.port == 8002


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_alerts_fire_and_resolve(path: Path) -> None:
    run(require("promtool"), "test", "rules", path.name)


def test_each_alert_has_a_test_in_which_it_fires_and_then_resolves() -> None:
    proven = set()
    for test in [test for path in TESTS for test in read(path.name)["tests"]]:
        for name in NAMES:
            fires = [bool(case.get("exp_alerts")) for case in test["alert_rule_test"] if case["alertname"] == name]
            if True in fires and not fires[-1]:
                proven.add(name)
    assert proven == set(NAMES)


@pytest.mark.parametrize(
    "query",
    [*(rule["expr"] for rule in rules("recording.yml")), *(alert["expr"] for alert in ALERTS), *QUERIES],
)
def test_each_metric_exists(query: str) -> None:
    used = metrics(query)
    assert used, query
    assert used <= exported() | RECORDED | OWN


def test_each_outcome_of_lost_records_is_covered() -> None:
    [alert] = [alert for alert in ALERTS if alert["alert"] == "LogRecordsLost"]
    pattern = re.search(r'outcome=~"([^"]+)"', alert["expr"])
    assert pattern
    lost = {outcome for outcome in OUTCOMES["records"] if re.fullmatch(pattern[1], outcome)}
    assert set(OUTCOMES["records"]) - lost == {"written"}


def test_each_alert_has_an_entry_in_the_runbook_and_the_other_way_round() -> None:
    runbook = (ROOT / "docs/how-to/runbook.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", runbook, re.MULTILINE) == NAMES
    for alert in ALERTS:
        assert alert["annotations"]["runbook_url"] == f"docs/how-to/runbook.md#{alert['alert'].lower()}"
    entry = runbook.partition("## DriftFound")[2].partition("\n## ")[0]
    assert all(f"`{kind}`" in entry for kind in TITLES)


def test_each_severity_in_the_runbook_is_that_of_the_alert() -> None:
    entries = re.split(r"^## ", (ROOT / "docs/how-to/runbook.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    for alert, entry in zip(ALERTS, entries, strict=True):
        assert f"{alert['labels']['severity'].capitalize()}" in entry, alert["alert"]


def test_the_scraped_jobs_are_those_of_the_rules() -> None:
    text = "".join((FOLDER / name).read_text(encoding="utf-8") for name in ("recording.yml", "alerts.yml"))
    used = set(re.findall(r'job="(\w+)"', text))
    assert used == {job["job_name"] for job in read("prometheus.yml")["scrape_configs"]}


def test_the_queries_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    queries = [query.replace("$__rate_interval", "1m") for query in QUERIES]
    written = {
        "groups": [{"name": "dashboard", "rules": [{"record": f"q{n}", "expr": q} for n, q in enumerate(queries)]}]
    }
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump(written))
    run(require("promtool"), "check", "rules", str(path))


def test_the_dashboard_is_consistent() -> None:
    [source] = read("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    cells: Counter[tuple[int, int]] = Counter()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells.update(
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        )
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": source["type"], "uid": source["uid"]}
    assert set(cells.values()) == {1}, "panels overlap"
