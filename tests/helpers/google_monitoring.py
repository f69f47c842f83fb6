"""Cloud Monitoring and the metrics of Cloud Logging, for the `gcloud` double."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.google_iam import DeniedError, State, require

PERMISSIONS = {
    "channels": "monitoring.notificationChannels",
    "policies": "monitoring.alertPolicies",
    "uptime": "monitoring.uptimeCheckConfigs",
    "dashboards": "monitoring.dashboards",
    "metrics": "logging.logMetrics",
}
FILES = {
    "channels": "channel-content-from-file",
    "policies": "policy-from-file",
    "dashboards": "config-from-file",
}
LABEL = re.compile(r"[a-z][a-z0-9_-]{0,62}=[a-z0-9_-]{0,63}")
AGENT = "service-123456@gcp-sa-monitoring-notification.iam.gserviceaccount.com"


def monitoring(state: State, account: str, command: str, name: str, options: dict[str, str]) -> str:
    """Creates, lists, updates or deletes a resource, which has fields that Google adds."""
    *_, kind, verb = command.split()
    verb = verb.removesuffix("-configs")
    require(state, account, f"{PERMISSIONS[kind]}.{verb}", "project")
    things: list[dict[str, Any]] = state.setdefault("monitoring", {}).setdefault(kind, [])
    if verb == "list":
        return json.dumps(things)
    wanted = _content(kind, name, options) if verb in ("create", "update") else {}
    _check(state, kind, wanted)
    found = next((one for one in things if one["name"] == name), None)
    if verb == "create":
        if kind == "metrics" and found:
            raise DeniedError(f"ALREADY_EXISTS: the metric {name} already exists")
        number = state["number"] = state.get("number", 0) + 1
        wanted.setdefault("name", f"projects/my-project/{kind}/{number}")
        things.append({**wanted, "creationRecord": {"mutatedBy": account}, "etag": "1"})
        if "service-agent-auth" in options:
            state["agents"] = [f"serviceAccount:{AGENT}"]
        return str(wanted["name"])
    if not found:
        raise DeniedError(f"NOT_FOUND: {name} was not found")
    if verb == "delete":
        users = [one["name"] for one in state["monitoring"].get("policies", []) if name in one["notificationChannels"]]
        if users:
            raise DeniedError(f"FAILED_PRECONDITION: {name} is used by {users}")
        things.remove(found)
        return ""
    if kind == "dashboards" and wanted.get("etag") != found["etag"]:
        raise DeniedError("ABORTED: the etag does not match")
    kept = {key: found[key] for key in ("name", "creationRecord")}
    found.clear()
    found.update({**wanted, **kept, "etag": str(state.setdefault("number", 0) + 1)})
    return ""


def _content(kind: str, name: str, options: dict[str, str]) -> dict[str, Any]:
    if kind == "metrics":
        return {"name": name, "description": options["description"], "filter": options["log-filter"]}
    if kind == "uptime":
        labels = dict(pair.split("=") for pair in options["user-labels"].split(","))
        return {"displayName": name, "userLabels": labels, "options": options}
    read: dict[str, Any] = yaml.safe_load(Path(options[FILES[kind]]).read_text())
    return read


def _check(state: State, kind: str, wanted: dict[str, Any]) -> None:
    """Refuses what the API refuses, according to its reference."""
    for key, value in wanted.get("userLabels", {}).items():
        if not LABEL.fullmatch(f"{key}={value}"):
            raise DeniedError(f"INVALID_ARGUMENT: the label {key}={value}")
    if kind == "policies":
        known = {channel["name"] for channel in state["monitoring"].get("channels", [])}
        for channel in wanted.get("notificationChannels", []):
            if channel not in known:
                raise DeniedError(f"NOT_FOUND: the channel {channel}")
        if len(wanted.get("documentation", {}).get("content", "")) > 8192:
            raise DeniedError("INVALID_ARGUMENT: the documentation is too long")
        for condition in wanted.get("conditions", []):
            query = condition.get("conditionPrometheusQueryLanguage")
            if query and int(query["evaluationInterval"].removesuffix("s")) % 30:
                raise DeniedError("INVALID_ARGUMENT: evaluation_interval must be a multiple of 30 seconds")
