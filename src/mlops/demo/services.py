"""Runs the services that a demonstration shows, each on a free port of this machine.

The rules are those of `monitoring/`, with all times shortened, so that minutes pass in seconds.
"""

import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx2 as httpx
import typer
import yaml

from src.mlops import ROOT
from src.mlops.errors import ServiceError
from src.mlops.io.service_process import running

CONFIGURATION = ROOT / "monitoring"
FACTOR = 30  # by which all times in the rules are shortened
PROGRAMS = {"prometheus": ("prometheus",), "alertmanager": ("prometheus-alertmanager", "alertmanager")}
FOGGY = {"UnknownShareHigh", "ConfidenceDropped"}  # alerts of traffic in fog
_DURATION = re.compile(r"\b(\d+)([smhd])\b")  # not in names such as rate5m
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_ADDRESS = "127.0.0.1:{port}"  # `running` fills in the port
_LIMIT_SECONDS = 240.0  # until an alert must have fired or resolved; about 40 on an idle machine
WINDOW_SECONDS = 10.0  # of a drift report; at 20 images per second, more than the 100 that it needs
_SEGMENT_SECONDS = 2.0  # until records of the prediction log can be read


class UnsuccessfulError(Exception):
    """A demonstration failed. No `ServiceError`, to which each service would add its log."""


class Services(NamedTuple):
    """Clients of the services.

    Attributes:
        service: The service that classifies images.
        drift: The drift service.
        prometheus: Prometheus, or None if it does not run.
        alertmanager: Alertmanager, or None if it does not run.
        log: Folder of the prediction log.
    """

    service: httpx.Client
    drift: httpx.Client
    prometheus: httpx.Client | None
    alertmanager: httpx.Client | None
    log: str

    def show_addresses(self) -> None:
        """Prints the pages to look at."""
        say(f"Times in the rules are divided by {FACTOR}. To watch:" if self.prometheus else "To watch:")
        pages = {
            "alerts": self.prometheus and f"{self.prometheus.base_url}/alerts",
            "Alertmanager": self.alertmanager and f"{self.alertmanager.base_url}/#/alerts",
            "service": str(self.service.base_url),
            "drift service": f"{self.drift.base_url}/metrics",
        }
        for name, address in pages.items():
            if address:
                say(f"  {name:14}{address}")

    def report_drift(self) -> dict[str, Any]:
        """Computes a drift report of the last seconds, which also updates the metrics of the drift service."""
        start = datetime.fromtimestamp(time.time() - WINDOW_SECONDS, UTC).isoformat()
        asked = {"window": f"{start}/", "cluster_seconds": 0}
        answer = self.drift.post("/drift", json=asked, timeout=120)
        if not answer.is_success:
            raise UnsuccessfulError(f"The drift report failed with status {answer.status_code}: {answer.text}")
        report: dict[str, Any] = answer.json()
        return report

    def wait_for_alerts(self, names: set[str], *, fire: bool) -> None:
        """Waits until Alertmanager knows all of these alerts, or none of them, and prints each change.

        Raises:
            UnsuccessfulError: It does not happen in time.
        """
        started, seen = time.monotonic(), set[str]() if fire else set(names)
        while True:
            active = {alert["labels"]["alertname"]: alert for alert in self._alerts()}
            for name in sorted(names & (active.keys() ^ seen)):
                summary = active[name]["annotations"]["summary"] if name in active else ""
                say(f"  {'fires' if name in active else 'resolves'}: {name}. {summary}".rstrip())
            seen = names & active.keys()
            if seen == (names if fire else set()):
                return
            if time.monotonic() - started > _LIMIT_SECONDS:
                late, verb = (names - seen, "fire") if fire else (seen, "resolve")
                raise UnsuccessfulError(
                    f"The alerts {', '.join(sorted(late))} did not {verb} within {_LIMIT_SECONDS:.0f} s. The machine "
                    "may be too busy, or the images do not suit the model: try other images."
                )
            time.sleep(0.5)

    def _alerts(self) -> list[dict[str, Any]]:
        if self.alertmanager is None:
            raise ServiceError("Alertmanager does not run.")
        found: list[dict[str, Any]] = self.alertmanager.get("/api/v2/alerts").raise_for_status().json()
        return found


@contextmanager
def running_services(
    model: str, settings: Mapping[str, str] | None = None, repository: Path = ROOT, *, alerts: bool = True
) -> Iterator[Services]:
    """Runs the service, the drift service, Prometheus and Alertmanager.

    Args:
        model: Name of the model, see `locate_model`.
        settings: Further variables for the service.
        repository: The repository whose code and model they use.
        alerts: Whether to run Prometheus and Alertmanager.

    Raises:
        ServiceError: A service does not start, or a program is not installed.
    """
    programs = {name: _require(*names) for name, names in PROGRAMS.items()} if alerts else {}
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="mlops-demo-", ignore_cleanup_errors=True))
        )
        log, token = str(folder / "log"), secrets.token_hex()

        def python(module: str, ready: str, variables: dict[str, str]) -> httpx.Client:
            command = [sys.executable, "-m", f"src.mlops.{module}", "--port", "{port}"]
            return stack.enter_context(running(command, ready, variables, repository))

        recorded = {"MLOPS_MODEL": model, "MLOPS_LOG_URL": log, "MLOPS_LOG_SEGMENT_SECONDS": str(_SEGMENT_SECONDS)}
        service = python("api", "/health/ready", recorded | dict(settings or {}))
        compared = {"MLOPS_DRIFT_LOG_URL": log, "MLOPS_DRIFT_MODEL": model, "MLOPS_DRIFT_TOKEN": token}
        drift = python("drift_api", "/health/live", compared)
        drift.headers["Authorization"] = f"Bearer {token}"
        if not alerts:
            yield Services(service, drift, None, None, log)
            return
        _configure_alertmanager(folder, drift, token)
        options = [f"--config.file={folder / 'alertmanager.yml'}", f"--storage.path={folder / 'alertmanager'}"]
        options += ["--cluster.listen-address=", "--web.listen-address", _ADDRESS]
        alertmanager = stack.enter_context(running([programs["alertmanager"], *options], "/-/ready"))
        _configure_prometheus(folder, alertmanager, {"service": service, "drift": drift})
        options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'prometheus'}"]
        options += ["--web.listen-address", _ADDRESS]
        prometheus = stack.enter_context(running([programs["prometheus"], *options], "/-/ready"))
        yield Services(service, drift, prometheus, alertmanager, log)


def has_alerts() -> bool:
    """Returns whether Prometheus and Alertmanager are installed."""
    return all(_find(*names) for names in PROGRAMS.values())


def shorten(text: str) -> str:
    """Divides all times in a configuration of Prometheus or Alertmanager, such as 5m, by `FACTOR`."""

    def divided(found: re.Match[str]) -> str:
        return f"{1000 * int(found[1]) * _SECONDS[found[2]] // FACTOR}ms"

    return _DURATION.sub(divided, text)


def say(text: str) -> None:
    """Prints a line with the time."""
    typer.echo(f"{datetime.now():%H:%M:%S}  {text}")
    sys.stdout.flush()


@contextmanager
def reported() -> Iterator[None]:
    """Reports the end of a demonstration: by Ctrl-C, or because it failed.

    Raises:
        ServiceError: It failed.
    """
    try:
        yield
    except KeyboardInterrupt:
        say("Stopped.")
    except UnsuccessfulError as error:
        raise ServiceError(str(error)) from error


def _find(*names: str) -> str | None:
    return next(filter(None, map(shutil.which, names)), None)


def _require(*names: str) -> str:
    found = _find(*names)
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


def _netloc(client: httpx.Client) -> str:
    return str(client.base_url).removeprefix("http://").rstrip("/")
