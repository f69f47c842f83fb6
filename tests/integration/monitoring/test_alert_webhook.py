"""A running Alertmanager notifies a running drift service, which starts the workflow on a double of GitHub."""

import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2 as httpx
import yaml

from src.mlops import ROOT
from src.mlops.io.service_process import running
from tests.helpers.github_double import GitHub
from tests.helpers.programs import require


def test_an_alert_starts_the_workflow_and_its_end_does_not(tmp_path: Path) -> None:
    program = require("prometheus-alertmanager")
    with GitHub.running() as github:
        environment = {
            "MLOPS_DRIFT_LOG_URL": str(tmp_path / "log"),
            "MLOPS_DRIFT_TOKEN": "secret",
            "MLOPS_DRIFT_GITHUB_REPOSITORY": "owner/signs",
            "MLOPS_DRIFT_GITHUB_TOKEN": "github_pat_1",
            "MLOPS_DRIFT_GITHUB_API": f"http://127.0.0.1:{github.server_port}",
        }
        service = [sys.executable, "-m", "src.mlops.drift_api", "--port", "{port}"]
        with running(service, "/health/live", environment) as drift:
            options = [f"--config.file={configured(tmp_path, drift)}", f"--storage.path={tmp_path / 'alertmanager'}"]
            command = [program, *options, "--cluster.listen-address=", "--web.listen-address", "127.0.0.1:{port}"]
            with running(command, "/-/ready") as alertmanager:
                tell(alertmanager, "NoTraffic", "DriftFound")
                wait_for(drift, "started", 1)
                tell(alertmanager, "UnknownShareHigh")
                wait_for(drift, "recent", 1)
                tell(alertmanager, "DriftFound", ended=True)
            reasons = [body["inputs"]["reason"] for body in github.dispatched]
            assert reasons == ["DriftFound"]
            assert "/alerts" in drift.get("/metrics").text


def configured(folder: Path, drift: httpx.Client) -> Path:
    """Writes the configuration of this repository with another address, and without waiting."""
    whole = yaml.safe_load((ROOT / "monitoring/alertmanager.yml").read_text())
    whole["route"] |= {"group_wait": "50ms", "group_interval": "100ms"}
    [webhook] = [each for receiver in whole["receivers"] for each in receiver.get("webhook_configs", [])]
    webhook["url"] = webhook["url"].replace("http://drift:8002", str(drift.base_url).rstrip("/"))
    (folder / "drift-token").write_text("secret")
    webhook["http_config"]["authorization"]["credentials_file"] = str(folder / "drift-token")
    path = folder / "alertmanager.yml"
    path.write_text(yaml.safe_dump(whole))
    return path


def tell(alertmanager: httpx.Client, *names: str, ended: bool = False) -> None:
    """Reports alerts as Prometheus does."""
    now = datetime.now(UTC)
    times = {"startsAt": (now - timedelta(minutes=1)).isoformat(), "endsAt": now.isoformat() if ended else ""}
    alerts = [
        {"labels": {"alertname": name, "severity": "warning"}} | {key: value for key, value in times.items() if value}
        for name in names
    ]
    alertmanager.post("/api/v2/alerts", json=alerts).raise_for_status()


def wait_for(drift: httpx.Client, outcome: str, count: int) -> None:
    line = f'mlops_retrainings_total{{outcome="{outcome}"}} {count}.0'
    for _ in range(600):
        text = drift.get("/metrics").text
        if line in text:
            return
        threading.Event().wait(0.05)
    raise AssertionError(f"no {line} in {text}")
