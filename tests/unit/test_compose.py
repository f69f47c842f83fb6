"""compose.yaml fits to the configuration of Prometheus and Grafana. It was never started by the tests."""

import re
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from src.mlops import ROOT

SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
MONITORING = ROOT / "monitoring"


def read(name: str) -> Any:
    return yaml.safe_load((MONITORING / name).read_text())


def mounted(service: str, path: str) -> str | None:
    """Returns the path in the repository that a service sees under `path`."""
    for volume in SERVICES[service]["volumes"]:
        source, target = volume.split(":")[:2]
        if source.startswith("./") and PurePosixPath(path).is_relative_to(target):
            return str(ROOT / source / PurePosixPath(path).relative_to(target))
    return None


def test_prometheus_and_grafana_address_services_that_exist() -> None:
    settings = read("prometheus.yml")
    places = [*settings["scrape_configs"], *settings["alerting"]["alertmanagers"]]
    targets = {target for place in places for entry in place["static_configs"] for target in entry["targets"]}
    targets |= {
        source["url"].removeprefix("http://")
        for source in read("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    }
    for target in targets:
        name, port = target.split(":")
        assert any(published.endswith(f":{port}") for published in SERVICES[name]["ports"]), target


@pytest.mark.parametrize(
    ("service", "path"),
    [
        ("prometheus", "/etc/prometheus/prometheus.yml"),  # the default of the image
        ("alertmanager", "/etc/alertmanager/alertmanager.yml"),  # the default of the image
        ("grafana", "/etc/grafana/provisioning/datasources/prometheus.yml"),
        ("grafana", read("grafana/provisioning/dashboards/dashboards.yml")["providers"][0]["options"]["path"]),
        ("grafana", SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]),
    ],
)
def test_files_are_mounted_where_they_are_read(service: str, path: str) -> None:
    found = mounted(service, path)
    assert found
    assert (ROOT / found).exists(), found


def test_no_port_is_open_to_other_machines() -> None:
    assert all(port.startswith("127.0.0.1:") for service in SERVICES.values() for port in service.get("ports", []))


def test_the_token_has_no_default() -> None:
    assert re.fullmatch(r"\$\{MLOPS_DRIFT_TOKEN:\?.+\}", SERVICES["drift"]["environment"]["MLOPS_DRIFT_TOKEN"])


def test_alertmanager_finds_the_token_and_keeps_its_options() -> None:
    alertmanager = SERVICES["alertmanager"]
    [receiver] = [each for each in read("alertmanager.yml")["receivers"] if "webhook_configs" in each]
    path = receiver["webhook_configs"][0]["http_config"]["authorization"]["credentials_file"]
    [script] = alertmanager["command"]
    assert f'printf %s "$$MLOPS_DRIFT_TOKEN" > {path} ' in script
    assert path.startswith(f"{alertmanager['tmpfs'][0]}/")
    assert alertmanager["environment"] == {"MLOPS_DRIFT_TOKEN": SERVICES["drift"]["environment"]["MLOPS_DRIFT_TOKEN"]}
    # The defaults of the image, which the command replaces.
    assert script.endswith("--config.file=/etc/alertmanager/alertmanager.yml --storage.path=/alertmanager")


def test_the_token_of_github_is_for_the_drift_service_only() -> None:
    having = [name for name, service in SERVICES.items() if "GITHUB_TOKEN" in str(service.get("environment"))]
    assert having == ["drift"]


def test_the_drift_schedule_is_valid_python() -> None:
    *_, program = SERVICES["drift-schedule"]["command"]
    compile(program, "drift-schedule", "exec")
    assert "$" not in program  # compose would replace it
