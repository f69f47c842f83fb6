"""Shows an alert on this machine: `python -m src.mlops.demo.monitor`, or `inv monitor.demo`.

Starts the service, the drift service, Prometheus and Alertmanager, and sends traffic that turns foggy and clears up
again. The rules are those of `monitoring/`, with all times shortened, so that minutes pass in seconds.
"""

import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import httpx2 as httpx
import typer
import yaml

from src.mlops import ROOT
from src.mlops.cli import new_app, typer_main
from src.mlops.demo.traffic import Traffic, make_images
from src.mlops.errors import ServiceError
from src.mlops.evaluation.corruptions import SEVERITIES
from src.mlops.io.service_process import running
from src.mlops.modelfile.locate import LATEST
from src.mlops.monitoring.accepted import store_baseline
from src.mlops.monitoring.drift import accept

app = new_app()
CONFIGURATION = ROOT / "monitoring"
FACTOR = 30  # by which all times in the rules are shortened
_DURATION = re.compile(r"\b(\d+)([smhd])\b")  # not in names such as rate5m
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_ADDRESS = "127.0.0.1:{port}"  # `running` fills in the port
_CLEAR_SECONDS = 45.0  # traffic before the fog: the usual confidence, and the baseline of drift detection
_FOG_STEP_SECONDS = 3.0
_LIMIT_SECONDS = 240.0  # until an alert must have fired or resolved; about 40 on an idle machine
_WINDOW_SECONDS = 10.0  # of a drift report; at 20 images per second, more than the 100 that it needs
_SEGMENT_SECONDS = 2.0  # until records of the prediction log can be read
_FOGGY = {"UnknownShareHigh", "ConfidenceDropped"}


class _UnsuccessfulError(Exception):
    """The demonstration failed. No `ServiceError`, to which each service would add its log."""


class _Running(NamedTuple):
    """The services of the demonstration."""

    service: httpx.Client
    drift: httpx.Client
    prometheus: httpx.Client
    alertmanager: httpx.Client
    log: str


@app.command("monitor-demo")
def main(
    images: Annotated[str, typer.Option(help="Folder of images to send; default: drawn signs.")] = "",
    model: Annotated[str, typer.Option(help="Model file; latest: last trained model.")] = LATEST,
    stay: Annotated[bool, typer.Option("--stay", help="Keep everything running until Ctrl-C.")] = False,
) -> None:
    """Starts the services, lets the traffic turn foggy, and shows how alerts fire and resolve."""
    sent = make_images(images)
    try:
        with _services(model) as running_now, Traffic(running_now.service.base_url, sent) as traffic:
            _show_addresses(running_now)
            _demonstrate(running_now, traffic, model)
            if stay:
                _say("Everything keeps running, with clear traffic, until Ctrl-C.")
                while True:
                    time.sleep(1)
    except KeyboardInterrupt:
        _say("Stopped.")
    except _UnsuccessfulError as error:
        raise ServiceError(str(error)) from error


def _demonstrate(running_now: _Running, traffic: Traffic, model: str) -> None:
    _say(f"Clear traffic for {_CLEAR_SECONDS:.0f} s. It becomes the baseline of drift detection.")
    time.sleep(_CLEAR_SECONDS)
    baseline = accept(running_now.log, getuser(), model=model, cluster_seconds=0)
    store_baseline(running_now.log, baseline)

    def report_drift() -> None:
        start = datetime.fromtimestamp(time.time() - _WINDOW_SECONDS, UTC).isoformat()
        asked = {"window": f"{start}/", "cluster_seconds": 0}
        answer = running_now.drift.post("/drift", json=asked, timeout=120)
        if not answer.is_success:
            raise _UnsuccessfulError(f"The drift report failed with status {answer.status_code}: {answer.text}")

    _say("Fog comes up.")
    for severity in SEVERITIES:
        traffic.severity = severity
        time.sleep(_FOG_STEP_SECONDS)
    _wait(running_now, _FOGGY, fire=True)
    report_drift()
    _wait(running_now, {"DriftFound"}, fire=True)

    _say("The fog clears.")
    traffic.severity = 0
    time.sleep(_WINDOW_SECONDS + 1)  # so that the window of the report is clear
    report_drift()
    _wait(running_now, _FOGGY | {"DriftFound"}, fire=False)

    _say("The traffic stops.")
    traffic.paused = True
    _wait(running_now, {"NoTraffic"}, fire=True)
    _say("The traffic starts again.")
    traffic.paused = False
    _wait(running_now, {"NoTraffic"}, fire=False)
    if traffic.failed:
        raise _UnsuccessfulError(f"{traffic.failed} of {traffic.sent} images were not classified.")


def _wait(running_now: _Running, names: set[str], *, fire: bool) -> None:
    """Waits until Alertmanager knows all of these alerts, or none of them, and prints each change."""
    started, seen = time.monotonic(), set[str]() if fire else set(names)
    while True:
        active = {alert["labels"]["alertname"]: alert for alert in _alerts(running_now.alertmanager)}
        for name in sorted(names & (active.keys() ^ seen)):
            summary = active[name]["annotations"]["summary"] if name in active else ""
            _say(f"  {'fires' if name in active else 'resolves'}: {name}. {summary}".rstrip())
        seen = names & active.keys()
        if seen == (names if fire else set()):
            return
        if time.monotonic() - started > _LIMIT_SECONDS:
            late, verb = (names - seen, "fire") if fire else (seen, "resolve")
            raise _UnsuccessfulError(
                f"The alerts {', '.join(sorted(late))} did not {verb} within {_LIMIT_SECONDS:.0f} s. The machine may "
                "be too busy, or the images do not suit the model: try other --images."
            )
        time.sleep(0.5)


def _alerts(alertmanager: httpx.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = alertmanager.get("/api/v2/alerts").raise_for_status().json()
    return found


@contextmanager
def _services(model: str) -> Iterator[_Running]:
    """Runs all services, each on a free port."""
    collector, notifier = _find("prometheus"), _find("prometheus-alertmanager", "alertmanager")
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="mlops-monitor-", ignore_cleanup_errors=True))
        )
        log, token = str(folder / "log"), secrets.token_hex()
        python = [sys.executable, "-m"]
        recorded = {"MLOPS_MODEL": model, "MLOPS_LOG_URL": log, "MLOPS_LOG_SEGMENT_SECONDS": str(_SEGMENT_SECONDS)}
        service = stack.enter_context(
            running([*python, "src.mlops.api", "--port", "{port}"], "/health/ready", recorded)
        )
        compared = {"MLOPS_DRIFT_LOG_URL": log, "MLOPS_DRIFT_MODEL": model, "MLOPS_DRIFT_TOKEN": token}
        drift = stack.enter_context(
            running([*python, "src.mlops.drift_api", "--port", "{port}"], "/health/live", compared)
        )
        drift.headers["Authorization"] = f"Bearer {token}"
        _configure_alertmanager(folder, drift, token)
        options = [f"--config.file={folder / 'alertmanager.yml'}", f"--storage.path={folder / 'alertmanager'}"]
        alertmanager = stack.enter_context(
            running([notifier, *options, "--cluster.listen-address=", "--web.listen-address", _ADDRESS], "/-/ready")
        )
        _configure_prometheus(folder, alertmanager, {"service": service, "drift": drift})
        options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'prometheus'}"]
        prometheus = stack.enter_context(running([collector, *options, "--web.listen-address", _ADDRESS], "/-/ready"))
        yield _Running(service, drift, prometheus, alertmanager, log)


def _find(*names: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise ServiceError(
            f"The program {names[0]} was not found. Install it, for example with `apt-get install "
            "--no-install-recommends prometheus prometheus-alertmanager`, or use compose.yaml."
        )
    return found


def _configure_alertmanager(folder: Path, drift: httpx.Client, token: str) -> None:
    """Writes the configuration of Alertmanager with the address and the token of the drift service."""
    whole = yaml.safe_load(shorten((CONFIGURATION / "alertmanager.yml").read_text()))
    (folder / "drift-token").write_text(token)
    for webhook in [each for receiver in whole["receivers"] for each in receiver.get("webhook_configs", [])]:
        webhook["url"] = str(drift.base_url.join("/alerts"))
        webhook["http_config"]["authorization"]["credentials_file"] = str(folder / "drift-token")
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(whole))


def _configure_prometheus(folder: Path, alertmanager: httpx.Client, services: dict[str, httpx.Client]) -> None:
    """Writes the configuration of Prometheus with the addresses of this demonstration."""
    whole = yaml.safe_load(shorten((CONFIGURATION / "prometheus.yml").read_text()))
    whole["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [_netloc(alertmanager)]}]}]
    for job in whole["scrape_configs"]:
        job["static_configs"] = [{"targets": [_netloc(services[job["job_name"]])]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(whole))
    for name in whole["rule_files"]:
        (folder / name).write_text(shorten((CONFIGURATION / name).read_text()))


def shorten(text: str) -> str:
    """Divides all times in a configuration of Prometheus or Alertmanager, such as 5m, by `FACTOR`."""

    def divided(found: re.Match[str]) -> str:
        return f"{1000 * int(found[1]) * _SECONDS[found[2]] // FACTOR}ms"

    return _DURATION.sub(divided, text)


def _netloc(client: httpx.Client) -> str:
    return str(client.base_url).removeprefix("http://").rstrip("/")


def _show_addresses(running_now: _Running) -> None:
    _say(f"Times in the rules are divided by {FACTOR}. To watch:")
    pages = {
        "alerts": f"{running_now.prometheus.base_url}/alerts",
        "Alertmanager": f"{running_now.alertmanager.base_url}/#/alerts",
        "service": str(running_now.service.base_url),
        "drift service": f"{running_now.drift.base_url}/metrics",
    }
    for name, address in pages.items():
        _say(f"  {name:14}{address}")


def _say(text: str) -> None:
    typer.echo(f"{datetime.now():%H:%M:%S}  {text}")
    sys.stdout.flush()


if __name__ == "__main__":
    typer_main(app)
