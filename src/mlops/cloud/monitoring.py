"""Sets up Cloud Monitoring for the service: `python -m src.mlops.cloud.monitoring`, or `inv gcp.monitoring`.

The wanted resources follow from the configuration and from files; what differs in the project is created, replaced or
deleted. A resource is known by its display name and a label with `cloud.name`; others are not touched. A label with a
hash of the wanted content shows whether it is up to date, because Google adds fields of its own.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from src.mlops.cli import hydra_main
from src.mlops.cloud.access import INVOKE
from src.mlops.cloud.alert_policies import alert_policies, has_data, to_cloud
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import Names, fill, write
from src.mlops.cloud.service import describe, require_deployed
from src.mlops.config import CloudConfig, Config
from src.mlops.io.files import to_json

logger = logging.getLogger("src.mlops.cloud.monitoring")
OWNER = "mlops"  # label with `cloud.name`
CONTENT = "content"  # label with the hash of the content


@dataclass(frozen=True)
class Kind:
    """A kind of resource of Cloud Monitoring.

    Attributes:
        title: What it is called in messages.
        group: Its group of commands.
        file: Option with the file that has its content; empty if the content consists of options.
        labels: Field with its labels.
        listing: Command that lists the resources.
    """

    title: str
    group: tuple[str, ...]
    file: str
    labels: str = "userLabels"
    listing: str = "list"


# Policies and channels are not in the general release of all versions of gcloud that are in use.
CHANNELS = Kind("notification channel", ("alpha", "monitoring", "channels"), "--channel-content-from-file")
CHECKS = Kind("uptime check", ("monitoring", "uptime"), "", listing="list-configs")
POLICIES = Kind("alert policy", ("alpha", "monitoring", "policies"), "--policy-from-file")
DASHBOARDS = Kind("dashboard", ("monitoring", "dashboards"), "--config-from-file", labels="labels")
KINDS = (DASHBOARDS, POLICIES, CHECKS, CHANNELS)  # in the order in which they are deleted: policies use channels


def monitor(cloud: CloudConfig) -> None:
    """Creates or updates everything in Cloud Monitoring that watches the service in production.

    Raises:
        CloudError: Nothing is deployed yet, or a step failed. Fix the cause and run the command again.
    """
    gcloud, names = Gcloud(cloud), Names(cloud).in_stage("production")
    gcloud.login()
    state = describe(gcloud, names)
    require_deployed(names, state)
    host = urlsplit(state.url).netloc or "HOST"
    email = {"type": "email", "labels": {"email_address": cloud.alert_email}}
    channels = _apply(gcloud, names, CHANNELS, {f"{names.service} alerts": email} if cloud.alert_email else {})
    _count_logs(gcloud, names)
    checks = _apply(gcloud, names, CHECKS, {f"{names.service} uptime": _check(names, host)})
    if not names.public:
        _let_in(gcloud, names)
    policies = _apply(gcloud, names, POLICIES, alert_policies(names, host, channels))
    dashboards = _apply(gcloud, names, DASHBOARDS, {names.service: _dashboard(names)})
    for kind, kept in zip(KINDS, (dashboards, policies, checks, channels), strict=True):
        _prune(gcloud, names, kind, kept)
    if not names.metrics:
        logger.warning(
            "No metrics of the service reach Cloud Monitoring, so that alerts about it and most of the dashboard are "
            "missing. Set cloud.serve.metrics=true, and run `inv gcp.deploy` and this command again"
        )
    if not cloud.alert_email:
        logger.warning("Nobody is notified. Set cloud.alert_email to an address and run this command again")
    logger.info("%d alert policies watch %s", len(policies), state.url)


def unmonitor(gcloud: Gcloud, names: Names) -> None:
    """Deletes everything that `monitor` created."""
    for kind in KINDS:
        _prune(gcloud, names, kind, [])
    for name in _log_metrics(names):
        gcloud.remove(f"delete the log metric {name}", "logging", "metrics", "delete", name)


def _check(names: Names, host: str) -> dict[str, str]:
    """Returns the options of the uptime check. A private service lets in Google's account for notifications."""
    options: dict[str, str] = fill("monitoring/uptime.yaml", names.cloud, host=host)
    return options | ({} if names.public else {"service-agent-auth": "oidc-token"})


def _let_in(gcloud: Gcloud, names: Names) -> None:
    """Lets the uptime check call the private service. Google creates its account with the first check that needs it."""
    number = gcloud.run(
        "find the number of the project", "projects", "describe", names.cloud.project, "--format=value(projectNumber)"
    )
    agent = f"service-{number or 'NUMBER'}@gcp-sa-monitoring-notification.iam.gserviceaccount.com"
    gcloud.run(
        f"allow the uptime check to call {names.service}",
        *("run", "services", "add-iam-policy-binding", names.service, f"--region={names.cloud.region}"),
        *(f"--member=serviceAccount:{agent}", f"--role={INVOKE}"),
    )


def _dashboard(names: Names) -> dict[str, Any]:
    """Returns the dashboard with queries for Cloud Monitoring."""
    dashboard: dict[str, Any] = fill(
        "monitoring/dashboard.json",
        names.cloud,
        log=f"logging_googleapis_com:user_{names.prefix}",
        service=names.service,
    )
    for tile in dashboard["mosaicLayout"]["tiles"]:
        for chart in tile["widget"].get("xyChart", {}).get("dataSets", []):
            query = chart["timeSeriesQuery"]
            query["prometheusQuery"] = to_cloud(names, query["prometheusQuery"])
    return dashboard


def _count_logs(gcloud: Gcloud, names: Names) -> None:
    """Creates, updates or deletes the metrics that Cloud Logging counts."""
    metrics = ("logging", "metrics")
    there = {metric["name"]: metric for metric in _listed(gcloud, "find the log metrics", *metrics, "list")}
    for name, wanted in _log_metrics(names).items():
        former = there.get(name)
        same = former and all(former.get(key) == wanted[key] for key in ("description", "filter"))
        if not has_data(names, wanted["needs"]):
            if former:
                gcloud.remove(f"delete the log metric {name}", *metrics, "delete", name)
        elif not same:
            gcloud.run(
                f"{'update' if former else 'create'} the log metric {name}",
                *(*metrics, "update" if former else "create", name),
                *(f"--description={wanted['description']}", f"--log-filter={wanted['filter']}"),
            )


def _log_metrics(names: Names) -> dict[str, dict[str, Any]]:
    found = fill("monitoring/logs.yaml", names.cloud, service=names.service, job=names.drift_job)
    return {f"{names.prefix}_{name}": metric for name, metric in found.items()}


def _apply(gcloud: Gcloud, names: Names, kind: Kind, wanted: dict[str, dict[str, Any]]) -> list[str]:
    """Creates the wanted resources of a kind, by display name, or updates them. Returns their resource names."""
    found = _own(gcloud, names, kind)
    return [_put(gcloud, names, kind, found, title, content) for title, content in wanted.items()]


def _put(
    gcloud: Gcloud, names: Names, kind: Kind, found: list[dict[str, Any]], title: str, content: dict[str, Any]
) -> str:
    digest = hashlib.sha256(to_json(content).encode()).hexdigest()[:16]
    labels = {OWNER: names.cloud.name, CONTENT: digest}
    former = [one for one in found if one["displayName"] == title]
    current = [one for one in former if one[kind.labels].get(CONTENT) == digest]
    if current:
        return str(current[0]["name"])
    if kind.file:
        etag = {key: one[key] for one in former[:1] for key in ("etag",) if key in one}  # refuses concurrent changes
        path = write(kind.group[-1], {"displayName": title, **content, kind.labels: labels, **etag})
        options = [f"{kind.file}={path}"]
        if former:
            name = str(former[0]["name"])
            gcloud.run(f"update the {kind.title} {title}", *kind.group, "update", name, *options)
            return name
    else:  # options of a resource that cannot be changed later, so a new one replaces it
        values = content | {"user-labels": ",".join(f"{key}={value}" for key, value in labels.items())}
        options = [title, *(f"--{key}={value}" for key, value in values.items())]
    # A second attempt after a lost response would create it twice. The next call of the program finds it.
    created = gcloud.run(
        f"create the {kind.title} {title}", *kind.group, "create", *options, "--format=value(name)", attempts=1
    )
    return created or "NAME"


def _prune(gcloud: Gcloud, names: Names, kind: Kind, kept: list[str]) -> None:
    """Deletes all resources of a kind that are not kept: former ones, and those that were created twice."""
    for one in _own(gcloud, names, kind):
        if one["name"] not in kept:
            title = f"delete the {kind.title} {one['displayName']}"
            gcloud.remove(title, *kind.group, "delete", str(one["name"]))


def _own(gcloud: Gcloud, names: Names, kind: Kind) -> list[dict[str, Any]]:
    """Returns the resources of a kind that this module has created."""
    found = _listed(gcloud, f"find each {kind.title}", *kind.group, kind.listing)
    return [one for one in found if one.get(kind.labels, {}).get(OWNER) == names.cloud.name]


def _listed(gcloud: Gcloud, step: str, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(gcloud.run(step, *words, "--format=json") or "[]")
    return found


def main(config: Config) -> None:
    """Runs `monitor` from the command line."""
    monitor(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
