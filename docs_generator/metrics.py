"""The metrics of the services, and the alerts and recording rules that use them."""

import ast
import re
from typing import Any

import yaml

from docs_generator.markdown import cell
from src.mlops import ROOT
from src.mlops.io.markdown import table as markdown_table

SOURCES = ROOT / "src/mlops/serving"
KINDS = ("Counter", "Gauge", "Histogram")


def service() -> str:
    """Returns a table of the metrics that the modules of the services define."""
    rows = []
    for path in sorted(SOURCES.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
                name, text, *labels = [ast.literal_eval(argument) for argument in node.args]
                shown = f"{name}_total" if node.func.id == "Counter" else name
                names = ", ".join(f"`{label}`" for label in (labels[0] if labels else []))
                rows.append([f"`{shown}`", node.func.id.lower(), names, cell(text)])
    return markdown_table("metric|type|labels|meaning", sorted(rows))


def alerts() -> str:
    """Returns a table of the alerts, with links to the runbook."""
    rows = []
    for rule in _rules("alerts.yml"):
        name, labels, notes = rule["alert"], rule["labels"], rule["annotations"]
        link = f"[{name}](../how-to/runbook.md#{name.lower()})"
        rows.append([link, labels["severity"], str(rule.get("for", "")), _message(notes["summary"])])
    return markdown_table("alert|severity|after|message", rows)


def _message(summary: str) -> str:
    return re.sub(r"\{\{.*?\}\}", "…", " ".join(summary.split()))  # a value that Prometheus fills in


def recording_rules() -> str:
    """Returns a table of the values that alerts and dashboard share."""
    rows = [[f"`{rule['record']}`", f"`{' '.join(rule['expr'].split())}`"] for rule in _rules("recording.yml")]
    return markdown_table("value|expression", rows)


def _rules(file: str) -> list[dict[str, Any]]:
    content = yaml.safe_load((ROOT / "monitoring" / file).read_text(encoding="utf-8"))
    return [rule for group in content["groups"] for rule in group["rules"]]
